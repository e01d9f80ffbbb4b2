// The console's small script: links that sign in once, copying, keys of the review queue, live pages.
"use strict";
const find = (where, what) => where.querySelector(what);

function signInByLink() {
  const form = document.getElementById("sign-in");
  if (!form || !location.hash.startsWith("#link=")) return;
  form.elements.link.value = location.hash.slice(6);
  history.replaceState(null, "", location.pathname);
  form.submit();
}

async function copy(button) {
  const code = find(button.parentElement, "code");
  const text = code.textContent.replaceAll("$URL", location.origin);
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(code);
    button.textContent = "Press Ctrl+C";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

// A key presses the button that names it, unless the reader is typing.
function pressed(event) {
  const typing = event.target.closest("input, textarea, select");
  if (event.key === "Escape" && typing) { typing.blur(); return; }
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && typing && typing.form) {
    typing.form.requestSubmit(find(typing.form, "[data-enter]") || undefined);
    event.preventDefault();
    return;
  }
  if (typing || event.ctrlKey || event.metaKey || event.altKey || event.key.length !== 1) return;
  const wanted = [...document.querySelectorAll("[data-key]")].find((one) => one.dataset.key === event.key.toLowerCase());
  if (!wanted) return;
  event.preventDefault();
  if (wanted.matches("input, textarea")) wanted.focus(); else wanted.click();
}

// What is in a file that was picked stands in a field, to be read before it is sent.
async function fillIn(input) {
  const field = document.getElementById(input.dataset.into);
  if (input.files.length) field.value = await input.files[0].text();
}

// A part of a page that the server sends anew as long as something goes on.
function follow(part) {
  const source = new EventSource(part.dataset.follow);
  source.addEventListener("part", (event) => {
    find(part, "[data-live]").innerHTML = JSON.parse(event.data);
  });
  source.addEventListener("end", () => { source.close(); if (part.dataset.reload !== undefined) location.reload(); });
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) copy(button);
  const grave = event.target.closest("[data-confirm]");
  if (grave && !confirm(grave.dataset.confirm)) event.preventDefault();
});
document.addEventListener("keydown", pressed);
document.addEventListener("input", (event) => {
  const output = event.target.matches("input[type=range]") && document.getElementById(event.target.id + "-value");
  if (output) output.textContent = event.target.value;
});
document.addEventListener("change", (event) => {
  if (event.target.matches("input[type=file][data-into]")) fillIn(event.target);
});
signInByLink();
document.querySelectorAll("[data-follow]").forEach(follow);
document.querySelectorAll("[data-end]").forEach((one) => { one.scrollLeft = one.scrollWidth; });
