// The Space's own elements. Whatever comes from people or models is set as text, never as HTML.
window.CoGaze = (() => {
  const NARROW = "(max-width: 760px)";
  const HINT = "Point at a sentence of the report, or choose it, to see where it looks.";
  const CAUTION = "Research software. Not for clinical use.";
  const shown = { value: null, layer: null, canvas: null, opacity: 1 };

  function h(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "class") node.className = value;
      else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value === true) node.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }

  // Bands of support: from which probability on, and what the legend says.
  const SUPPORT = [["high", 0.8, "supported"], ["middle", 0.5, "doubtful"], ["low", 0, "hardly supported"]];
  const supportClass = (support) =>
    typeof support === "number" ? `cg-support-${SUPPORT.find(([, from]) => support >= from)[0]}` : "";

  const percent = (share) => `${Math.round(100 * share)}%`;

  function bars(rows) {
    return h("ul", { class: "cg-bars" }, ...rows.map(([name, share, note]) => {
      const fill = h("span", { class: "cg-fill" });
      fill.style.width = `${Math.max(0, Math.min(100, 100 * share))}%`;
      return h("li", { class: share >= 0.5 ? "cg-likely" : "" },
        h("span", { class: "cg-name" }, name),
        h("span", { class: "cg-value" }, note ?? (share === null ? "not in its training" : percent(share))),
        h("span", { class: "cg-track", "aria-hidden": "true" }, fill));
    }));
  }

  // ---- The radiograph: window and level, inversion, a gaze map over it --------------------------------------------

  function viewer(element, props, watch) {
    const root = element.querySelector(".cg-viewer");
    const canvas = h("canvas", { role: "img" });
    const layer = h("img", { class: "cg-layer", alt: "" });
    const frames = h("div", { class: "cg-frames", hidden: true });
    const plate = h("div", { class: "cg-plate", hidden: true }, canvas, layer, frames);
    const badge = h("span", { class: "cg-badge", hidden: true }, "rendered from a CT, of nobody");
    const empty = h("div", { class: "cg-empty" },
      h("strong", {}, "No radiograph yet"), h("span", {}, "Send a file or pick an example."));
    const legend = h("span", { class: "cg-legend", hidden: true }, "less", h("i", { "aria-hidden": "true" }), "more looking");
    const stage = h("div", { class: "cg-stage" }, empty, plate, badge, legend);
    const caption = h("p", { class: "cg-caption", "aria-live": "polite" });
    const slider = (label, min, max, value, hint) => {
      const input = h("input", { type: "range", min, max, step: 1, value, title: hint, "aria-label": `${label}: ${hint}` });
      input.dataset.start = value;
      return [input, h("label", {}, h("span", {}, label), input)];
    };
    const [width, widthLabel] = slider("Window", 8, 512, 256, "width of the grey levels shown, less is more contrast");
    const [level, levelLabel] = slider("Level", 0, 255, 128, "their middle, less is brighter");
    const [heat, heatLabel] = slider("Gaze", 0, 100, 100, "opacity of the gaze map, in percent");
    const invert = h("button", { type: "button", class: "cg-button", "aria-pressed": "false" }, "Invert");
    const boxed = h("button", { type: "button", class: "cg-button cg-boxed", "aria-pressed": "false" }, "Boxes");
    const reset = h("button", { type: "button", class: "cg-button" }, "Reset");
    const warning = h("p", { class: "cg-warning", role: "alert", hidden: true });
    const tools = h("div", { class: "cg-tools", role: "group", "aria-label": "Display" },
      widthLabel, levelLabel, heatLabel, h("div", { class: "cg-pair" }, boxed, invert, reset));
    root.replaceChildren(stage, warning, caption, tools);

    let grey = null;
    let waiting = false;
    shown.canvas = canvas;

    function paint() {
      waiting = false;
      if (!grey) return;
      const lookup = new Uint8ClampedArray(256);
      const turned = invert.getAttribute("aria-pressed") === "true";
      for (let stored = 0; stored < 256; stored++) {
        const value = ((stored - level.value) / width.value + 0.5) * 255;
        lookup[stored] = turned ? 255 - Math.max(0, Math.min(255, value)) : value;
      }
      const context = canvas.getContext("2d");
      const pixels = context.createImageData(canvas.width, canvas.height);
      for (let place = 0; place < grey.length; place++) {
        pixels.data.fill(lookup[grey[place]], 4 * place, 4 * place + 3);
        pixels.data[4 * place + 3] = 255;
      }
      context.putImageData(pixels, 0, 0);
    }
    function later() {
      if (!waiting) requestAnimationFrame(paint);
      waiting = true;
    }
    function fade() {
      shown.opacity = heat.value / 100;
      layer.style.opacity = shown.opacity;
    }
    function restore() {
      for (const input of [width, level, heat]) input.value = input.dataset.start;
      invert.setAttribute("aria-pressed", "false");
      fade();
      later();
    }
    width.addEventListener("input", later);
    level.addEventListener("input", later);
    heat.addEventListener("input", fade);
    reset.addEventListener("click", restore);
    invert.addEventListener("click", () => {
      invert.setAttribute("aria-pressed", String(invert.getAttribute("aria-pressed") !== "true"));
      later();
    });

    boxed.addEventListener("click", () => {
      boxed.setAttribute("aria-pressed", String(boxed.getAttribute("aria-pressed") !== "true"));
      frames.hidden = boxed.getAttribute("aria-pressed") !== "true";
    });

    function open(value) {
      shown.value = value;
      warning.hidden = !(value && value.warning);
      warning.textContent = (value && value.warning) || "";
      look(null);
      empty.hidden = Boolean(value);
      plate.hidden = !value;
      badge.hidden = !(value && value.rendered);
      tools.classList.toggle("cg-off", !value);
      for (const input of tools.querySelectorAll("input, button")) input.disabled = !value;
      grey = null;
      if (!value) return;
      const picture = new Image();
      picture.onload = () => {
        if (shown.value !== value) return;
        canvas.width = picture.naturalWidth;
        canvas.height = picture.naturalHeight;
        plate.style.setProperty("--cg-aspect", canvas.width / canvas.height);
        canvas.setAttribute("aria-label", value.rendered ? "Chest radiograph, rendered from a CT" : "Your radiograph");
        const context = canvas.getContext("2d", { willReadFrequently: true });
        context.drawImage(picture, 0, 0);
        const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
        grey = Uint8Array.from({ length: data.length / 4 }, (_, place) => data[4 * place]);
        const [x0, y0, x1, y1] = value.box;
        layer.style.left = `${100 * x0}%`;
        layer.style.top = `${100 * y0}%`;
        layer.style.width = `${100 * (x1 - x0)}%`;
        layer.style.height = `${100 * (y1 - y0)}%`;
        restore();
      };
      picture.src = value.picture;
    }

    // Show where a sentence looks; null shows the radiograph alone.
    function look(sentence) {
      shown.layer = sentence ? layer : null;
      layer.hidden = legend.hidden = !sentence;
      if (sentence) layer.src = sentence.layer;
      frames.replaceChildren(...((sentence && sentence.boxes) || []).map(([x0, y0, x1, y1]) => {
        const frame = h("span", { class: "cg-frame" });
        frame.style.left = `${100 * x0}%`;
        frame.style.top = `${100 * y0}%`;
        frame.style.width = `${100 * (x1 - x0)}%`;
        frame.style.height = `${100 * (y1 - y0)}%`;
        return frame;
      }));
      caption.classList.toggle("cg-quiet", !sentence);
      caption.textContent = sentence ? `“${sentence.text}”` : shown.value ? HINT : "";
    }
    shown.look = look;
    watch("value", () => open(props.value));
    open(props.value);
  }

  // The radiograph as it is displayed, with the map; `lines` are written below it.
  function compose(lines) {
    const source = shown.canvas;
    const scale = Math.max(1, 640 / source.width);
    const width = Math.round(source.width * scale);
    const height = Math.round(source.height * scale);
    const size = Math.round(width / 42);
    const canvas = h("canvas", { width });
    const context = canvas.getContext("2d");
    const font = `${size}px system-ui, sans-serif`;
    context.font = font;
    const wrapped = [];
    for (const line of lines) {
      let row = "";
      for (const word of line.split(/\s+/)) {
        if (row && context.measureText(`${row} ${word}`).width > width - 2 * size) {
          wrapped.push(row);
          row = word;
        } else row = row ? `${row} ${word}` : word;
      }
      wrapped.push(row);
    }
    canvas.height = height + (wrapped.length ? Math.round(size * (1.4 * wrapped.length + 1)) : 0);
    context.fillStyle = "#0b0d12";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(source, 0, 0, width, height);
    if (shown.layer) {
      const [x0, y0, x1, y1] = shown.value.box;
      context.save();
      context.beginPath();
      context.rect(0, 0, width, height);
      context.clip();
      context.globalAlpha = shown.opacity;
      context.imageSmoothingQuality = "high";
      context.drawImage(shown.layer, x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height);
      context.restore();
    }
    context.font = font;
    context.fillStyle = "#e5e7eb";
    wrapped.forEach((row, place) => context.fillText(row, size, height + size * (1.4 * (place + 1) + 0.2)));
    return canvas;
  }

  function save(blob, name) {
    const link = h("a", { href: URL.createObjectURL(blob), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  // ---- The report: it streams in, and each sentence shows its map -------------------------------------------------

  function report(element, props, watch) {
    const root = element.querySelector(".cg-report");
    const status = h("p", { class: "cg-status", role: "status" });
    const body = h("div", { class: "cg-body" });
    const key = h("p", { class: "cg-key", hidden: true }, "certainty of the words");
    root.replaceChildren(h("div", { class: "cg-top" }, status, key), body);
    let streaming = null;
    let pinned = null;

    function show(value) {
      if (value && value.state === "writing" && streaming) {
        streaming.firstChild.data = value.text;
        return;
      }
      pinned = null;
      streaming = null;
      if (shown.look) shown.look(null);
      root.dataset.state = value ? value.state : "empty";
      const told = value && value.sentences.some((sentence) => typeof sentence.support === "number");
      key.hidden = !(value && value.sentences.length);
      key.replaceChildren(...(told ? SUPPORT.map(([name, , title]) =>
        h("span", { class: `cg-support-key cg-support-${name}`, title }, title)) : ["certainty of the words"]));
      if (!value) {
        status.textContent = "";
        body.replaceChildren(h("div", { class: "cg-empty cg-light" },
          h("strong", {}, "The report will stand here"),
          h("span", {}, "Each of its sentences shows where a radiologist who says it is predicted to look.")));
        return;
      }
      if (value.state === "writing") {
        status.textContent = "Writing …";
        streaming = h("p", { class: "cg-stream" }, document.createTextNode(value.text), h("span", { class: "cg-caret", "aria-hidden": "true" }));
        body.replaceChildren(streaming, observations(value) ?? "");
        // On a phone the report begins below the fold.
        if (matchMedia(NARROW).matches) root.scrollIntoView({ block: "start" });
        return;
      }
      const count = value.sentences.length;
      status.textContent = `${count} sentence${count === 1 ? "" : "s"} in ${value.seconds.toFixed(1)} s`;
      body.replaceChildren(
        count ? sentences(value) : h("p", { class: "cg-stream" }, "The model wrote nothing."),
        downloads(value), reference(value) ?? "", observations(value) ?? "");
    }

    function sentences(value) {
      const list = h("div", { class: "cg-sentences" });
      let heading = "";
      for (const sentence of value.sentences) {
        if (sentence.heading !== heading) list.append(h("h4", {}, (heading = sentence.heading)));
        const meter = h("span", { class: "cg-meter", "aria-hidden": "true" }, h("span", {}));
        meter.firstChild.style.width = percent(sentence.text_confidence);
        const button = h("button", {
          type: "button", class: `cg-sentence ${supportClass(sentence.support)}`, "aria-pressed": "false",
          title: `${typeof sentence.support === "number" ? `support by the picture ${percent(sentence.support)}, ` : ""}certainty of the words ${percent(sentence.text_confidence)}, focus of the map ${percent(sentence.map_confidence)}`,
          onmouseenter: () => shown.look(sentence),
          onmouseleave: () => shown.look(pinned && pinned.sentence),
          onfocus: () => shown.look(sentence),
          onblur: () => shown.look(pinned && pinned.sentence),
          onclick: () => pin(button, sentence),
          onkeydown: (event) => {
            const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
            if (!step) return;
            const all = [...list.querySelectorAll(".cg-sentence")];
            all[(all.indexOf(button) + step + all.length) % all.length].focus();
            event.preventDefault();
          },
        }, h("span", {}, sentence.text), meter);
        list.append(button);
      }
      return list;
    }

    function pin(button, sentence) {
      if (pinned) {
        pinned.button.setAttribute("aria-pressed", "false");
        pinned.figure?.remove();
      }
      const again = pinned && pinned.button === button;
      pinned = again ? null : { button, sentence };
      shown.look(pinned && sentence);
      if (again) return;
      button.setAttribute("aria-pressed", "true");
      if (!matchMedia(NARROW).matches) return;
      // On a phone the radiograph is out of sight: it stands below the sentence, too.
      const mine = pinned;
      whenLoaded(shown.layer, () => {
        if (pinned !== mine) return;
        mine.figure = h("figure", { class: "cg-inline" }, compose([]));
        button.after(mine.figure);
      });
    }

    function downloads(value) {
      const picture = h("button", {
        type: "button", class: "cg-button",
        onclick: () => compose([
          ...(pinned ? [`“${pinned.sentence.text}”`] : value.sentences.map((sentence) => sentence.text)),
          `${value.model}. ${CAUTION}`,
        ]).toBlob((blob) => save(blob, "cogaze-report.png"), "image/png"),
      }, "Picture (PNG)");
      const text = h("button", {
        type: "button", class: "cg-button",
        onclick: () => save(new Blob([JSON.stringify(value.record, null, 2)], { type: "application/json" }), "cogaze-report.json"),
      }, "Report (JSON)");
      return h("div", { class: "cg-downloads" }, h("span", {}, "Download"), picture, text);
    }

    function reference(value) {
      if (!value.reference) return null;
      return h("details", { class: "cg-reference" },
        h("summary", {}, "What was put into this rendered radiograph"), h("p", {}, value.reference));
    }

    function observations(value) {
      if (!value.observations.length) return null;
      return h("section", { class: "cg-observations", "aria-label": "Observations" },
        h("h3", {}, "Observations"), h("p", { class: "cg-note" }, value.observed_by), bars(value.observations));
    }

    watch("value", () => show(props.value));
    show(props.value);
  }

  function whenLoaded(image, then) {
    if (image.complete) then();
    else image.addEventListener("load", then, { once: true });
  }

  // ---- Scores, similar reports, examples, facts ---------------------------------------------------------------------

  function listed(element, props, watch, build) {
    const root = element.firstElementChild;
    const show = () => root.replaceChildren(...(props.value ? build(props.value) : []));
    watch("value", show);
    show();
  }

  const scores = (element, props, watch) => listed(element, props, watch, (rows) => [
    bars(rows.map((row) => [row.prompt, row.share, `${percent(row.share)} · cosine ${row.cosine.toFixed(3)}`])),
  ]);

  const cases = (element, props, watch) => listed(element, props, watch, (rows) => rows.map((row) =>
    h("article", { class: "cg-case" },
      h("span", { class: "cg-value" }, `cosine ${row.cosine.toFixed(3)}`), h("p", {}, row.findings))));

  const facts = (element, props, watch) => listed(element, props, watch, (rows) => [
    h("dl", { class: "cg-facts" }, ...Object.entries(rows).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
  ]);

  function examples(element, props, watch, trigger) {
    listed(element, props, watch, (rows) => rows.map((row, index) =>
      h("button", { type: "button", class: "cg-example", onclick: () => trigger("click", { index }) },
        h("img", { src: row.picture, alt: "" }), h("span", {}, row.title))));
  }

  return { viewer, report, scores, cases, facts, examples };
})();
