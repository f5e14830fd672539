/** Types of nanohook.js, which tells what each does. Times are RFC 3339, UTC. */

export type ImageJobStatus = "PENDING" | "INITIALIZING" | "GENERATING" | "COMPLETED" | "FAILED" | "CANCELED";

/** Those that only a retry, or accepting a late result, leads out of. */
export const FINAL: ReadonlySet<ImageJobStatus>;

type Text = string | null;
type Open = Record<string, unknown>;

export interface Stored {
  url: string;
  thumbnail_url: string;
  width: number;
  height: number;
  content_type: string;
  bytes: number;
}
export type Picture = Stored & { index: number };
export type Fault = { code: string; message: string; advice: string; retryable: boolean };

export interface Accepted {
  job_id: string;
  status: ImageJobStatus;
  progress: number;
}
interface State extends Accepted {
  stage: string;
  message: string;
  error: Fault | null;
  attempt: number;
}
export type StatusEvent = State & { images: Picture[]; at: string };
export interface Standing extends State {
  place: number | null;
  estimated_wait_s: number | null;
  event_id: number;
  updated_at: string;
}
export interface Job extends State {
  project_id: Text;
  batch_id: Text;
  source_job_id: Text;
  prompt: Text;
  transformation_type: Text;
  model: Text;
  options: Open;
  priority: string;
  credits: number | null;
  original: Stored | null;
  images: Picture[];
  unclaimed: (Omit<Picture, "url"> & { attempt: number; kept_until: string })[];
  failed_tasks: { index: number; error: Fault | null }[];
  tasks: { index: number; task_id: Text; status: ImageJobStatus }[];
  metadata: Open;
  created_at: string;
  updated_at: string;
  completed_at: Text;
  event_id: number;
}
export type Result = { job_id: string; status: "COMPLETED"; images: Picture[] };

export interface Wish {
  imageId?: string;
  projectId?: string;
  prompt?: string;
  transformationType?: "custom" | "enhance" | "restyle" | "background" | "remove";
  model?: "nano-banana" | "nano-banana-pro" | "nano-banana-2";
  numImages?: number;
  aspectRatio?: string;
  resolution?: string;
  outputFormat?: "jpg" | "png" | "webp";
  fit?: "cover" | "contain" | "stretch";
  use?: "original" | "result";
  priority?: "low" | "normal" | "high";
}
export interface Handlers {
  status?(event: StatusEvent): void;
  deleted?(jobId: string): void;
  reset?(): void;
  denied?(problem: Problem): void;
  link?(state: "live" | "reconnecting" | "offline"): void;
}
export interface Following {
  /** How many of the jobs have not ended. */
  readonly pending: number;
  readonly busy: boolean;
  close(): void;
}

export class Problem extends Error {
  constructor(told: { status: number; code: string; detail?: string; cause?: unknown });
  readonly status: number;
  readonly code: string;
  readonly requestId: Text;
  readonly retryAfterS: number | null;
  /** Of what may have been ordered: with it the same can be asked for again, and is bought once. */
  readonly idempotencyKey?: string;
}

type Ordering = { idempotencyKey?: string };
/** `refused` names those that were left as they are, and why. */
export type BulkResult = { done: string[]; refused: { job_id: string; code: string }[] };
type Lasting = { keepalive?: boolean };

export function newKey(): string;

export interface Verbs {
  now(): number;
  create(
    file: Blob,
    how?: { projectId?: string; progress?(share: number): void; signal?: AbortSignal; tries?: number },
  ): Promise<Job>;
  generate(wish: Wish, how?: Ordering): Promise<Accepted>;
  job(jobId: string): Promise<Job>;
  status(jobId: string): Promise<Standing>;
  result(jobId: string): Promise<Result>;
  cancel(jobId: string): Promise<Job>;
  retry(jobId: string, how?: Ordering & { buyAgain?: boolean }): Promise<Accepted>;
  follow(jobs: string | string[], handlers?: Handlers): Following;
  deleteMany(jobIds: string[], how?: Lasting): Promise<BulkResult>;
  restoreMany(jobIds: string[], how?: Lasting): Promise<BulkResult>;
  request(method: string, path: string, body?: FormData | Open): Promise<unknown>;
}
export function connect(to?: {
  base?: string;
  key?: Text;
  streamToken?: (jobId: Text) => Promise<{ token: string; expires_at: string }>;
}): Verbs;

export const { now, create, generate, job, status, result, cancel, retry, follow, deleteMany, restoreMany, request }: Verbs;
