/** What a job is waiting for, and what becomes of it when it is canceled, in the words of the page. */

/** It waits, or is being sent: no event tells why, since nothing happens to the job itself. */
const WAITING = ["queued", "submitting"];
const STARTED = ["generating", "downloading", "resizing", "storing"];

export const isWaiting = (job) => WAITING.includes(job?.stage);

/** Say why it waits, where everybody does; nothing if it only waits for its turn. */
export const heldText = ({ held }, job) => (isWaiting(job) && held[job.message]) || "";

/** Say what a job does: by its stage, or by its own message while everybody is held up; and its place in line. */
export function stageText(words, job) {
  const { stages, texts } = words;
  const text = heldText(words, job) || stages[job.stage];
  return isWaiting(job) && job.place ? `${text} · ${texts.place.replace("{n}", job.place)}` : text;
}

/**
 * Say what becomes of the picture if the job, as it was last seen, is canceled; nothing if nothing was begun.
 *
 * `canceled` is what it was then: its tasks tell for sure.
 */
export function keptText(words, job, canceled = job) {
  const { texts } = words;
  if (STARTED.includes(job?.stage) || canceled?.tasks?.some((task) => task.task_id)) return texts.kept;
  // Sent, and not answered yet.
  return job?.stage === "submitting" && !heldText(words, job) ? texts.kept_if_begun : "";
}
