// What the tables and charts of explore.html do when something is chosen. Models of Bokeh come in by name.
const explore = {
  // The rows of a coded table that pass, with the texts that their codes stand for, column by column.
  rows(data, levels, passes) {
    const columns = Object.keys(data)
    const shown = Object.fromEntries(columns.map((column) => [column, []]))
    for (let row = 0; row < data.value.length; row++) {
      if (!passes(row)) continue
      for (const column of columns) {
        const value = data[column][row]
        shown[column].push(column in levels ? levels[column][value] : value)
      }
    }
    return shown
  },

  // Whether a row has what is chosen in every list; " all" leaves the choice.
  passes(data, levels, selects) {
    const wanted = Object.entries(selects)
      .filter(([, select]) => select.value !== " all")
      .map(([column, select]) => [data[column], levels[column].indexOf(select.value)])
    return (row) => wanted.every(([codes, code]) => codes[row] === code)
  },

  show(table, rows) {
    table.source.data = rows
    table.view.change.emit()  // without it nothing is drawn anew where as many rows are shown as before
  },

  narrow(raw, levels, selects, model, table, note) {
    const text = model.value.trim().toLowerCase()
    const named = levels.model.map((name) => name.toLowerCase().includes(text))
    const chosen = explore.passes(raw.data, levels, selects)
    explore.show(table, explore.rows(raw.data, levels, (row) => named[raw.data.model[row]] && chosen(row)))
    note.text = `${table.source.data.value.length} numbers`
  },

  // The differences between two models, as they were computed or turned round.
  pick(raw, levels, selects, first, second, table, note) {
    const { model, rival } = raw.data
    const chosen = explore.passes(raw.data, levels, selects)
    const between = (one, other) => {
      const [minuend, subtrahend] = [levels.model.indexOf(one), levels.rival.indexOf(other)]
      return (row) => model[row] === minuend && rival[row] === subtrahend
    }
    const straight = between(first.value, second.value), round = between(second.value, first.value)
    const rows = explore.rows(raw.data, levels, (row) => chosen(row) && (straight(row) || round(row)))
    const compared = model.some((_, row) => straight(row) || round(row))
    if (rows.value.length && rows.model[0] !== first.value) {
      const negative = (values) => values.map((value) => -value)
      Object.assign(rows, { value: negative(rows.value), low: negative(rows.high), high: negative(rows.low) })
    }
    explore.show(table, rows)
    note.text = rows.value.length ? "" : compared ? "Not compared by this measure." :
      "Not compared: no interval of the difference between these two was computed, and their own intervals don't give it."
  },

  // Show the marks of one method and merge; what merges nothing has no merge.
  choose(selects, renderers) {
    for (const renderer of renderers) {
      const { data } = renderer.data_source
      const passes = (row) => Object.entries(selects).every(([name, select]) =>
        select.value === " all" || data[name][row] === select.value || data[name][row] === "")
      renderer.view.filter.booleans = Array.from(data.method, (_, row) => passes(row))
    }
  },
}
