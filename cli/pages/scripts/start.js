// Puts the page together.

function theme() {
  const root = document.documentElement;
  const button = byId("theme");
  const dark = () =>
    (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const apply = () => {
    button.textContent = dark() ? "Light" : "Dark";
    button.setAttribute("aria-label", `${button.textContent} colours`);
    for (const chart of charts) chart.redraw(false, true);
  };
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    apply();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
  button.hidden = false;
  apply();
  return { root, apply };
}

/** Paper is white, and has no next page to click for. */
function printing({ root, apply }, table) {
  let before;
  addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    root.dataset.theme = "light";
    apply();
    table?.print();
  });
  addEventListener("afterprint", () => {
    if (before) root.dataset.theme = before;
    else delete root.dataset.theme;
    apply();
    table?.turn(table.page);
  });
}

async function start() {
  const colours = theme();
  const packed = byId("data");
  if (!packed) return printing(colours);
  const tensors = new Tensors(await unpacked(packed.textContent));
  const detail = new Detail(tensors);
  const table = new Table(tensors, detail);
  new Layers(tensors, table);
  new Sizes(tensors, table);
  new Errors(tensors, detail);
  printing(colours, table);
  document.body.dataset.ready = "";
}

start().catch((error) => {
  byId("tensors").append(element("p", {}, `The table and the charts need a newer browser (${error.message}).`));
  throw error;
});
