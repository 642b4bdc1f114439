"use strict";
(() => {
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.setAttribute("role", "status");
  document.body.append(tip);
  let lit = null;
  const show = (mark) => {
    if (mark === lit) return;
    if (lit) lit.classList.remove("on");
    lit = mark;
    tip.textContent = mark ? mark.dataset.tip : "";
    if (!mark) return;
    mark.classList.add("on");
    const box = mark.getBoundingClientRect();
    const left = box.left + box.width / 2 - tip.offsetWidth / 2;
    const above = box.top - tip.offsetHeight - 8;
    tip.style.left = `${scrollX + Math.max(8, Math.min(left, document.documentElement.clientWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${scrollY + (above > 4 ? above : box.bottom + 8)}px`;
  };
  const near = (marks, x, y) => {
    let found = null, least = 24;
    for (const mark of marks) {
      const box = mark.getBoundingClientRect();
      const across = Math.max(box.left - x, x - box.right, 0), along = Math.max(box.top - y, y - box.bottom, 0);
      const far = Math.hypot(across, along) + Math.min(box.width, box.height) / 1e3;
      if (far < least) [found, least] = [mark, far];
    }
    return found;
  };
  for (const chart of document.querySelectorAll(".chart")) {
    const marks = [...chart.querySelectorAll("[data-tip]")];
    if (!marks.length) continue;
    chart.tabIndex = 0;
    chart.setAttribute("role", "application");
    chart.setAttribute("aria-roledescription", "figure");
    chart.addEventListener("pointermove", (event) => show(near(marks, event.clientX, event.clientY)));
    chart.addEventListener("pointerdown", (event) => show(near(marks, event.clientX, event.clientY)));
    chart.addEventListener("pointerleave", () => show(null));
    chart.addEventListener("blur", () => show(null));
    chart.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape") show(null);
      if (!step) return;
      event.preventDefault();
      const at = marks.indexOf(lit);
      show(marks[at < 0 ? (step > 0 ? 0 : marks.length - 1) : (at + step + marks.length) % marks.length]);
    });
  }
})();
