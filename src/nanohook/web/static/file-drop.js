/** The whole page takes files that are dropped or pasted: one that misses the box must not replace the page. */

const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");

/** Hand files to `take(files)`; `element` has the class `dragging` while some hover, if `isOpen()`. */
export function takeFiles(element, take, isOpen = () => true) {
  let depth = 0;
  const drag = (change) => element.classList.toggle("dragging", (depth = Math.max(0, change)) > 0 && isOpen());
  addEventListener("dragenter", (event) => carriesFiles(event) && drag(depth + 1));
  addEventListener("dragleave", (event) => carriesFiles(event) && drag(depth - 1));
  addEventListener("dragover", (event) => carriesFiles(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    drag(0);
    take([...event.dataTransfer.files]);
  });
  addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files].filter((file) => file.type.startsWith("image/"));
    if (!files.length) return;
    event.preventDefault();
    take(files);
  });
}
