/** How the studio gets a job going for what its form says, whatever was asked for before: nothing is bought twice. */

import { once } from "./idempotency.js";
import * as nanohook from "./nanohook.js";

/** Whether a `picture` and `prompt` are those of the `last` job. */
export const isSame = (last, picture, prompt) => last?.picture === picture && last.prompt === prompt;

/** Get a job going; resolves to its id. `upload(picture)` sees to it that the picture has an `imageId`. */
export async function start({ last, picture, prompt, buyAgain, upload }) {
  // The same wish once more is the next attempt of the same job: what was paid already is not bought again.
  if (isSame(last, picture, prompt)) {
    const { status, attempt } = last.event ?? {};
    // It was lost from sight, not ended: somebody who had to sign in again looks on.
    if (!nanohook.FINAL.has(status)) return last.id;
    if (status !== "COMPLETED") return retry(last.id, attempt, buyAgain);
  }
  await upload(picture);
  try {
    return await order(picture, prompt);
  } catch (problem) {
    // The first answer got lost on the way, or another tab has asked: it runs.
    if (problem.code === "job_running") return picture.imageId;
    if (problem.status !== 404 || !picture.file) throw problem;
    // Uploads that nobody used are thrown away after some days: the file is still here.
    picture.imageId = picture.uploading = null;
    await upload(picture);
    return order(picture, prompt);
  }
}

async function retry(id, attempt, buyAgain) {
  try {
    const click = ["retry", id, attempt, buyAgain];
    await once(click, (idempotencyKey) => nanohook.retry(id, { buyAgain, idempotencyKey }));
  } catch (problem) {
    // Somebody, in another tab perhaps, was faster: their attempt is as good.
    if (problem.code !== "not_failed") throw problem;
  }
  return id;
}

async function order({ imageId }, prompt) {
  const wish = { imageId, prompt };
  const taken = await once(["generate", wish], (idempotencyKey) => nanohook.generate(wish, { idempotencyKey }));
  return taken.job_id;
}
