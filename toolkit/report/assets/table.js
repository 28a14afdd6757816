// Tables that sort, search, and show as many rows as are asked for.

const ROWS_AT_ONCE = 100;

class SortedTable {
  /**
   * @param host the element that the table fills
   * @param columns [{name, title, value: row => value, isText, open?: row => void}]
   * @param rows () => row numbers
   */
  constructor(host, name, columns, rows) {
    Object.assign(this, { host, name, columns, rows });
    this.sortBy = null;
    this.limit = ROWS_AT_ONCE;
    this.search = element("input", {
      type: "search", placeholder: "Search", "aria-label": `Search ${host.dataset.title}`,
      oninput: () => { this.limit = ROWS_AT_ONCE; this.draw(); },
    });
    this.count = element("span", { class: "count", "aria-live": "polite" });
    const save = element("button", { type: "button", onclick: () => this.save() }, "CSV");
    this.head = element("tr");
    this.body = element("tbody");
    this.more = element("button", { type: "button", onclick: () => { this.limit += 10 * ROWS_AT_ONCE; this.draw(); } });
    host.append(
      element("div", { class: "controls" }, this.search, this.count, save),
      element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": host.dataset.title },
        element("table", {}, element("caption", { class: "unseen" }, host.dataset.title),
          element("thead", {}, this.head), this.body)),
      this.more,
    );
    this.draw();
  }

  found() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const text = (i) => this.columns.map(({ value }) => shown(value(i))).join(" ").toLowerCase();
    const rows = this.rows().filter((i) => !words.length || words.every((word) => text(i).includes(word)));
    if (!this.sortBy) return rows;
    const { column, sign } = this.sortBy;
    const missing = (value) => value === null || Number.isNaN(value);
    const compare = (a, b) => (column.isText ? a.localeCompare(b, "en", { numeric: true }) : a - b);
    return rows.sort((i, j) => {
      const a = column.value(i), b = column.value(j);
      if (missing(a) || missing(b)) return missing(a) - missing(b);
      return sign * compare(a, b);
    });
  }

  /** Numbers start with the highest, texts with the first. */
  sort(column) {
    const first = column.isText ? 1 : -1;
    const again = this.sortBy?.column === column;
    this.sortBy = { column, sign: again ? -this.sortBy.sign : first };
    this.draw();
    this.head.children[this.columns.indexOf(column)].querySelector("button").focus();
  }

  draw() {
    const rows = this.found();
    this.head.replaceChildren(...this.columns.map((column) => this.heading(column)));
    this.body.replaceChildren(...rows.slice(0, this.limit).map((i) => this.row(i)));
    const all = this.rows().length;
    this.count.textContent = `${rows.length === all ? "" : `${shown(rows.length)} of `}${shown(all)} row${all === 1 ? "" : "s"}`;
    this.more.hidden = rows.length <= this.limit;
    this.more.textContent = `Show more (${shown(rows.length - this.limit)} left)`;
  }

  heading(column) {
    const sorted = this.sortBy?.column === column && this.sortBy.sign;
    const button = element("button", { type: "button", onclick: () => this.sort(column) }, column.title,
      element("span", { class: "arrow", "aria-hidden": "true" }, sorted ? (sorted > 0 ? " ▲" : " ▼") : ""));
    const order = sorted ? (sorted > 0 ? "ascending" : "descending") : "none";
    return element("th", { scope: "col", "aria-sort": order, class: column.isText ? "text" : "number" }, button);
  }

  row(i) {
    return element("tr", {}, ...this.columns.map(({ value, isText, open }, position) => {
      const text = shown(value(i));
      const content = open ? element("button", { type: "button", class: "link", onclick: () => open(i) }, text) : text;
      return element(position ? "td" : "th", { class: isText ? "text" : "number", scope: position ? undefined : "row" }, content);
    }));
  }

  save() {
    saveText(`${this.name}.csv`, csv(this.columns, this.found()));
  }
}
