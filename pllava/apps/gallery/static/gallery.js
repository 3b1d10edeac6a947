// What the pages do beyond links and forms; without it they still work.
"use strict";

let latest = 0;

async function refresh(address, push) {
  const turn = ++latest;
  const results = document.getElementById("results");
  results.setAttribute("aria-busy", "true");
  try {
    const response = await fetch(address);
    const text = await response.text();
    if (turn !== latest) return; // a later filter is on its way
    const page = new DOMParser().parseFromString(text, "text/html");
    const newResults = page.getElementById("results");
    if (!newResults) { location.assign(address); return; }
    for (const id of ["results", "notice", "facts"]) document.getElementById(id).replaceWith(document.adoptNode(page.getElementById(id)));
    // The tasks on offer depend on the benchmark.
    const tasks = page.querySelector("select[name=task]"), ours = document.querySelector("select[name=task]");
    if (tasks && ours && tasks.innerHTML !== ours.innerHTML && document.activeElement !== ours) ours.replaceWith(document.adoptNode(tasks));
    history[push ? "pushState" : "replaceState"]({ live: true }, "", address);
  } catch {
    location.assign(address);
  }
}

function address(form) {
  const fields = [...new FormData(form)].filter(([, value]) => value !== "");
  const query = new URLSearchParams(fields).toString();
  return form.getAttribute("action") + (query ? "?" + query : "");
}

const form = document.querySelector("form[data-live]");
if (form) {
  let timer = 0;
  form.addEventListener("input", (event) => {
    clearTimeout(timer);
    const typed = event.target.type === "search";
    if (event.target.name === "benchmark" && form.elements.task) form.elements.task.value = "";
    timer = setTimeout(() => refresh(address(form), !typed), typed ? 180 : 0);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(timer);
    refresh(address(form), true);
  });
  addEventListener("popstate", () => location.reload());
}

const video = document.querySelector("video[data-start]");
if (video) {
  const start = Number(video.dataset.start), end = video.dataset.end === "" ? Infinity : Number(video.dataset.end);
  let part = false;
  video.addEventListener("timeupdate", () => {
    if (part && video.currentTime >= end) { video.pause(); video.currentTime = end; part = false; }
  });
  document.querySelector("[data-segment]")?.addEventListener("click", () => {
    video.currentTime = start;
    part = true;
    video.play();
  });
}

for (const place of document.querySelectorAll("[data-load]")) {
  fetch(place.dataset.load).then((response) => response.text()).then((text) => {
    const fragment = new DOMParser().parseFromString(text, "text/html");
    place.replaceChildren(...fragment.body.childNodes);
  }).catch(() => { place.textContent = "The frames could not be loaded."; });
}

document.querySelector("[data-copy]")?.addEventListener("click", async (event) => {
  const link = new URL(event.currentTarget.dataset.copy, location.href).href;
  const told = document.querySelector("[data-copied]");
  try {
    await navigator.clipboard.writeText(link);
    told.textContent = "Copied.";
  } catch {
    told.textContent = link;
  }
});

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, video")) return;
  const side = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
  const rows = [...document.querySelectorAll(".questions .asked a")];
  if (side) {
    document.querySelector(`a[rel=${side}]`)?.click();
  } else if ((event.key === "j" || event.key === "k") && rows.length) {
    const now = rows.indexOf(document.activeElement);
    rows[Math.max(0, Math.min(rows.length - 1, now + (event.key === "j" ? 1 : -1)))].focus();
  } else if (event.key === "/" && form) {
    event.preventDefault();
    form.elements.text.focus();
  }
});
