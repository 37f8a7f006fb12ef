// One tensor, in a dialog: all that is known of it, and its histogram.

class Detail {
  constructor(tensors) {
    this.tensors = tensors;
    this.dialog = byId("detail");
    byId("detail-close").addEventListener("click", () => this.dialog.close());
    byId("detail-previous").addEventListener("click", () => this.step(-1));
    byId("detail-next").addEventListener("click", () => this.step(1));
    this.dialog.addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") this.step(-1);
      if (event.key === "ArrowRight") this.step(1);
    });
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
    this.dialog.addEventListener("close", () => this.plot(null));
  }

  /** among: the tensors that one may go on to. */
  open(index, among = [index]) {
    this.among = among;
    this.at = among.indexOf(index);
    if (!this.dialog.open) this.dialog.showModal();
    this.show();
  }

  step(by) {
    const at = this.at + by;
    if (at < 0 || at >= this.among.length) return;
    this.at = at;
    this.show();
  }

  show() {
    const index = this.among[this.at];
    byId("detail-title").textContent = this.tensors.value("name", index);
    enable("detail-previous", this.at > 0);
    enable("detail-next", this.at < this.among.length - 1);
    const facts = this.tensors.columns
      .filter((column) => column.key !== "name" && column.values[index] !== null)
      .map((column) =>
        element("div", {}, element("dt", {}, column.title), element("dd", {}, shown(column, column.values[index]))),
      );
    byId("detail-facts").replaceChildren(...facts);
    this.plot(index);
  }

  plot(index) {
    this.chart?.destroy();
    byId("detail-plot").replaceChildren();
    this.chart = index === null ? null : histogram(byId("detail-plot"), this.tensors, index);
  }
}
