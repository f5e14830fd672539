/** A `Problem` in words: each page brings its own texts, this knows which of them is meant. */

/** Whatever the code, these say it all. */
const BY_STATUS = { 401: "signed_out", 429: "too_many" };
/** The texts of codes that have none of their own. */
const BY_CODE = {
  not_an_image: "not_a_picture",
  unknown_media_type: "not_a_picture",
  bad_multipart: "not_a_picture",
  too_many_scans: "not_a_picture",
  network: "no_network",
  too_slow: "no_network",
  not_found: "gone",
  email_unverified: "unverified",
};

/** What happened and what to do, from a page's `texts` by name. */
export function inWords(texts, { status, code, retryAfterS, requestId }) {
  const name = BY_STATUS[status] ?? BY_CODE[code] ?? code;
  const text = Object.hasOwn(texts, name) ? texts[name] : status === 503 ? texts.unavailable : texts.unknown;
  return text.replace("{seconds}", retryAfterS ?? 10).replace("{id}", requestId ?? status);
}
