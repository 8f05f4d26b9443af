// The examples' slider and tick box.
const range = document.querySelectorAll(".controls input[type=range]");
const names = document.querySelectorAll(".controls input[type=checkbox]");
const update = (control) => {
  const section = control.closest("section");
  const least = Number(control.closest(".controls").querySelector("[type=range]").value);
  section.querySelector("output").textContent = least.toFixed(2);
  section.classList.toggle("nameless", !section.querySelector("[type=checkbox]").checked);
  for (const box of section.querySelectorAll(".box")) {
    const { score, until } = box.dataset;
    const hidden = score !== undefined ? score < least : until !== undefined && until >= least;
    box.classList.toggle("hidden", hidden);
  }
};
for (const control of [...range, ...names]) {
  control.addEventListener("input", () => update(control));
  update(control);
}
