// Images of messages as data URLs, small enough for the API, and drawn on a canvas: the policy of the page allows no
// images from data URLs.

import { toast } from "./app.js";

const MOST = 690_000; // characters; the API takes 700,000
const SIDE = 1536; // pixels
const MOST_IMAGES = 4; // of a message, so that a chat has room for several

function sized(bitmap, most) {
  const scale = Math.min(1, most / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // JPEG has no transparency
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas;
}

function read(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = reject;
    reader.readAsDataURL(file);
  });
}

// A data URL of the image, reduced if it is large. Throws if the file is not an image.
async function encode(file) {
  const bitmap = await createImageBitmap(file).catch(() => {
    throw new Error(`${file.name} is not an image that the browser can read.`);
  });
  const fits = file.size * 1.4 < MOST && Math.max(bitmap.width, bitmap.height) <= SIDE;
  if (fits && /^image\/(png|jpeg|gif|webp)$/.test(file.type)) return read(file);
  for (let side = SIDE; ; side = Math.round(side * 0.75)) {
    const address = sized(bitmap, side).toDataURL("image/jpeg", 0.85);
    if (address.length <= MOST) return address;
  }
}

export async function thumbnail(address) {
  let canvas = document.createElement("canvas");
  try {
    const [head, data] = address.split(",");
    const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
    canvas = sized(await createImageBitmap(new Blob([bytes], { type: head.slice(5, head.indexOf(";")) })), 320);
  } catch {
    canvas.height = canvas.width; // an empty square for an image that cannot be read
  }
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "Attached image");
  return canvas;
}

// Adds the images to `images`, and to `box` a button for each that removes it.
export async function attached(files, images, box) {
  for (const file of files) {
    if (images.length === MOST_IMAGES) return toast(`A message can have ${MOST_IMAGES} images.`);
    try {
      const address = await encode(file);
      const remove = document.createElement("button");
      remove.type = "button";
      remove.append(await thumbnail(address));
      remove.setAttribute("aria-label", `Remove ${file.name}`);
      remove.addEventListener("click", () => {
        images.splice(images.indexOf(address), 1);
        remove.remove();
        document.getElementById("prompt").focus();
      });
      images.push(address);
      box.append(remove);
    } catch (error) {
      toast(error.message);
    }
  }
}
