// Everything here is a comfort: each page can be read, and each form sent, without it.
"use strict";

const at = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");

function follow(live) {
  const source = new EventSource(`${live.dataset.events}`);
  const on = (name, act) => source.addEventListener(name, (event) => {
    if (Number(event.lastEventId) <= Number(live.dataset.after) && name !== "end") return;
    act(JSON.parse(event.data));
  });
  const place = (told) => {
    if (told.phase_title) at("phase").textContent = `Phase ${told.phase_number} of ${told.phases}: ${told.phase_title}`;
    const step = told.step_title || told.move || "";
    if (at("step").textContent !== step) at("step").textContent = step;
  };
  on("order", (told) => { at("state").textContent = { queued: "Queued", running: "Running" }[told.state] || told.state; });
  on("step", (told) => { place(told); at("bar").removeAttribute("value"); at("figures").textContent = ""; at("wait").textContent = ""; });
  on("step-done", (told) => {
    const steps = at("steps");
    if (!steps) return;
    const line = document.createElement("li");
    line.textContent = `${told.step_title || told.step} (${told.seconds} s)`;
    steps.append(line);
  });
  on("progress", (told) => {
    place(told);
    at("wait").textContent = "";
    if (told.objects_total) at("bar").value = (100 * told.objects) / told.objects_total;
    if (!told.objects && !told.objects_total) { at("figures").textContent = ""; return; }
    const parts = [`${number.format(told.objects)}${told.objects_total ? ` of ${number.format(told.objects_total)}` : ""} objects`];
    if (told.objects_per_second) parts.push(`${number.format(Math.round(told.objects_per_second))} a second`);
    if (told.remaining_seconds) parts.push(`about ${number.format(Math.ceil(told.remaining_seconds / 60))} min left in this step`);
    at("figures").textContent = parts.join(" · ");
  });
  on("wait", (told) => { place(told); at("wait").textContent = `Waits: ${told.reason}`; });
  on("end", () => { source.close(); window.location.reload(); });
}

function watch(mark) {
  // The warning of a rotation has to come up, and to go, without anybody loading the page again.
  window.setInterval(async () => {
    if (document.hidden) return;
    const answer = await fetch(mark.dataset.watch, { headers: { "If-None-Match": mark.dataset.etag } }).catch(() => null);
    if (answer && answer.status === 200 && answer.headers.get("ETag") !== mark.dataset.etag) window.location.reload();
  }, 4000);
}

function upload(form) {
  const drop = form.querySelector(".drop"), file = at("file"), hash = at("sha256"), note = at("sha-note");
  const hex = (buffer) => [...new Uint8Array(buffer)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  const compare = async () => {
    if (!file.files[0] || !hash.value) return;
    const found = hex(await crypto.subtle.digest("SHA-256", await file.files[0].arrayBuffer()));
    const fits = found === hash.value.trim().toLowerCase();
    hash.setCustomValidity(fits ? "" : "This is not the SHA-256 of the file that you chose");
    note.textContent = fits ? "It fits the file." : "It does not fit the file that you chose.";
  };
  ["dragover", "dragleave", "drop"].forEach((name) => drop.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files.length) { file.files = event.dataTransfer.files; compare(); }
  }));
  file.addEventListener("change", compare);
  hash.addEventListener("input", compare);
}

function phrase(form) {
  const field = form.querySelector("#phrase"), button = form.querySelector("button");
  if (!field) return;
  const look = () => { button.disabled = field.value.trim() !== form.dataset.phrase; };
  field.addEventListener("input", look);
  look();
}

function copyable(block) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "quiet";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(block.textContent);
    button.textContent = "Copied";
  });
  block.after(button);
}

document.querySelectorAll("[data-events]").forEach(follow);
document.querySelectorAll("[data-watch]").forEach(watch);
document.querySelectorAll("[data-upload]").forEach(upload);
document.querySelectorAll("[data-phrase]").forEach(phrase);
document.querySelectorAll("pre.copy").forEach(copyable);
