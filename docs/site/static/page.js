// What the theme leaves to the mouse, by keyboard too. Its two drawers open by labels of hidden
// boxes, which no key reaches: the pictures in them become buttons.
function drawer(box, name, what) {
  const toggle = document.getElementById(box), place = document.querySelector(name);
  const buttons = [...document.querySelectorAll(`label[for="${box}"] .icon`)];
  const say = () => buttons.forEach((button) => (button.ariaExpanded = toggle.checked));
  const turn = (open) => {
    if (toggle.checked !== open) toggle.click();
    if (open) [...place.querySelectorAll("a, input")].find((each) => each.checkVisibility()).focus();
    else buttons.find((button) => button.checkVisibility())?.focus();
  };
  for (const button of buttons) {
    Object.assign(button, { role: "button", tabIndex: 0, ariaLabel: `${what}: open or close` });
    button.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      turn(!toggle.checked);
    });
  }
  toggle.addEventListener("change", say);
  say();
  addEventListener("keydown", (event) => event.key === "Escape" && toggle.checked && turn(false));
  place.ariaLabel = what;
}

addEventListener("DOMContentLoaded", () => {
  drawer("__navigation", ".sidebar-drawer", "Pages of the site");
  drawer("__toc", ".toc-drawer", "Contents of this page");
  for (const caption of document.querySelectorAll(".caption[role=heading]")) caption.ariaLevel = 2;
  for (const each of document.querySelectorAll("pre, .table-wrapper, article table"))
    if (each.scrollWidth > each.clientWidth) each.tabIndex = 0; // the arrow keys scroll it
});
