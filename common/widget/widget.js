// Words to click, and their maps over the photograph. All that is shown lies in the fragment itself: each word is a
// button with its maps, one for each method, as "h w peak share base64" (rows of 16-bit integers, 32767 is the peak) or
// as "share picture". Nothing is loaded, and texts are only ever text.
(() => {
  "use strict";
  const LEVELS = 4, FULL = 32767, LITTLE = 0.1, PICTURE = 1.5, ALONE = "The photograph alone.";

  function decode(text) {
    if (text.includes("data:")) return {share: parseFloat(text), picture: text.slice(text.indexOf("data:"))};
    const [h, w, peak, share, data] = text.split(" ");
    const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
    const values = Float32Array.from(new Int16Array(bytes.buffer), value => value / FULL);
    return {h: +h, w: +w, peak: +peak, share: +share, values};
  }

  // "rrggbbrrggbb..." as a table of 256 colours.
  function ramp(text) {
    const stops = text.match(/.{6}/g).map(hex => [0, 2, 4].map(at => parseInt(hex.slice(at, at + 2), 16)));
    return Array.from({length: 256}, (_, place) => {
      const at = place / 255 * (stops.length - 1), low = Math.floor(at), high = Math.min(low + 1, stops.length - 1);
      return stops[low].map((value, channel) => Math.round(value + (stops[high][channel] - value) * (at - low)));
    });
  }

  // Where the pixels of one axis lie between the places of a map: bilinear, corners not aligned.
  function axis(size, count) {
    return Array.from({length: size}, (_, pixel) => {
      const at = Math.min(Math.max((pixel + 0.5) * count / size - 0.5, 0), count - 1), low = Math.floor(at);
      return [low, Math.min(low + 1, count - 1), at - low];
    });
  }

  // A map in -1..1 at the size of an image: colours by the value, and opacity too, `most` (0..255) where it is largest.
  function fill(image, {h, w, values}, {scale, signed, colours, most}) {
    const xs = axis(image.width, w), ys = axis(image.height, h), pixels = image.data;
    let at = 0;
    for (const [top, bottom, down] of ys) {
      for (const [left, right, along] of xs) {
        const above = values[top * w + left] * (1 - along) + values[top * w + right] * along;
        const below = values[bottom * w + left] * (1 - along) + values[bottom * w + right] * along;
        const value = Math.min(Math.max((above * (1 - down) + below * down) * scale, signed ? -1 : 0), 1);
        const colour = colours[Math.round(signed ? 127.5 + 127.5 * value : 255 * value)];
        [pixels[at], pixels[at + 1], pixels[at + 2]] = colour;
        pixels[at + 3] = most * (0.18 + 0.82 * Math.abs(value));
        at += 4;
      }
    }
    return image;
  }

  function mark(buttons, chosen) {
    for (const button of buttons) {
      button.setAttribute("aria-checked", button === chosen);
      button.tabIndex = button === (chosen || buttons[0]) ? 0 : -1;
    }
  }

  // One of several buttons is chosen; arrows, Home and End go from one to the next, Tab leaves them.
  function choosing(group, buttons, choose) {
    const steps = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}, count = buttons.length;
    group.addEventListener("click", event => {
      const button = event.target.closest("button");
      if (button) choose(button);
    });
    group.addEventListener("keydown", event => {
      const here = buttons.indexOf(event.target);
      if (here < 0 || event.ctrlKey || event.altKey || event.metaKey) return;
      const turned = /Left|Right/.test(event.key) && getComputedStyle(event.target.parentElement).direction === "rtl";
      const step = (steps[event.key] || 0) * (turned ? -1 : 1);
      const next = step ? (here + step + count) % count : {Home: 0, End: count - 1}[event.key];
      if (next === undefined) return;
      event.preventDefault();
      buttons[next].focus();
      choose(buttons[next]);
    });
  }

  class Widget {
    constructor(root) {
      const all = name => [...root.querySelectorAll(name)];
      this.part = Object.fromEntries(all("[class^=sw-]").map(part => [part.className.split(" ")[0].slice(3), part]));
      this.words = all(".sw-choices button");
      this.tabs = all(".sw-tabs button");
      this.read = all(".sw-read span");
      this.maps = new Map(this.words.map(word => [word, word.dataset.maps.split("|").map(decode)]));
      this.ramps = Object.fromEntries(root.dataset.ramps.split(" ").map(pair => pair.split(":")));
      for (const name in this.ramps) this.ramps[name] = ramp(this.ramps[name]);
      this.chosen = this.words.find(word => word.getAttribute("aria-checked") === "true") || this.words[0];
      this.hovered = null;
      this.last = this.chosen;
      this.listen(root);
      this.turn(this.tabs[0]);
      this.choose(this.chosen);
      this.part.tabs.hidden = this.tabs.length < 2;
      this.part.controls.hidden = this.part.legend.hidden = this.part.help.hidden = false;
      this.part.still.hidden = true;
    }

    listen(root) {
      const {choices, tabs, stage, photo, opacity, alike, common, colours} = this.part;
      choosing(choices, this.words, word => this.choose(word));
      choosing(tabs, this.tabs, tab => this.turn(tab));
      stage.addEventListener("click", () => this.choose(this.chosen ? null : this.last));
      root.addEventListener("keydown", event => event.key === "Escape" && this.choose(null));
      for (const word of this.words) {
        word.addEventListener("pointerenter", event => event.pointerType === "mouse" && this.hover(word));
        word.addEventListener("pointerleave", () => this.hover(null));
      }
      for (const control of [opacity, alike, common, colours]) control.addEventListener("input", () => this.paint());
      if (!photo.complete) photo.addEventListener("load", () => this.paint());
    }

    choose(word) {
      this.chosen = word;
      this.last = word || this.last;
      mark(this.words, word);
      this.paint();
    }

    hover(word) {
      if (word === this.hovered) return;
      this.hovered = word;
      this.paint();
    }

    // Another method: its shares decide how faint the words are.
    turn(tab) {
      this.tab = tab;
      mark(this.tabs, tab);
      for (const word of this.words) {
        const share = this.share(word), {line, strength} = word.dataset;
        word.dataset.level = Math.round(LEVELS * share);
        if (line === "text" && !strength) word.querySelector("small").textContent = `${Math.round(100 * share)} %`;
      }
      this.paint();
    }

    map(word) {
      return this.maps.get(word)[this.tabs.indexOf(this.tab)];
    }

    share(word) {
      return word.dataset.strength ? +word.dataset.strength : this.map(word).share;
    }

    // What stands for the strongest colour: the map's own maximum, or that of all maps of its line.
    peak(word) {
      const line = this.words.filter(other => other.dataset.line === word.dataset.line);
      return this.part.common.checked ? Math.max(...line.map(other => this.map(other).peak)) : this.map(word).peak;
    }

    table() {
      return this.ramps[this.tab.dataset.kind === "signed" ? "signed" : this.part.colours.value];
    }

    paint() {
      const word = this.hovered || this.chosen, map = word && this.map(word), {photo, map: canvas} = this.part;
      canvas.width = photo.naturalWidth;
      canvas.height = photo.naturalHeight;
      if (map && map.picture) this.picture(word, map.picture);
      else if (map && map.peak && canvas.width) this.heat(word, map);
      canvas.setAttribute("aria-label", word ? `${this.tab.textContent}: ${word.dataset.name}` : "no map");
      this.part.status.textContent = word ? `${word.dataset.name}: ${word.dataset.note}${this.caveat(word, map)}` : ALONE;
      this.legend(word, map);
      this.shade(word);
    }

    // On its own scale a word with little evidence would look as sure as any other: unless all are wanted alike, its
    // whole map is fainter.
    heat(word, map) {
      const canvas = this.part.map, pen = canvas.getContext("2d"), full = this.part.alike.checked || this.part.common.checked;
      const most = 255 * this.part.opacity.value / 100 * (full ? 1 : 0.25 + 0.75 * this.share(word));
      const look = {scale: map.peak / this.peak(word), signed: this.tab.dataset.kind === "signed", most};
      pen.putImageData(fill(pen.createImageData(canvas.width, canvas.height), map, {...look, colours: this.table()}), 0, 0);
    }

    picture(word, source) {
      const canvas = this.part.map, image = new Image(), pen = canvas.getContext("2d");
      image.onload = () => {
        if (word !== (this.hovered || this.chosen) || source !== this.map(word).picture) return;
        pen.clearRect(0, 0, canvas.width, canvas.height);
        pen.globalAlpha = Math.min(1, PICTURE * this.part.opacity.value / 100);
        pen.drawImage(image, 0, 0, canvas.width, canvas.height);
      };
      image.src = source;
    }

    caveat(word, map) {
      if (map.peak === 0) return "; nothing in the picture raises this score";
      const share = this.share(word);
      if (word.dataset.strength) return share < LITTLE ? "; it owes next to nothing to the picture" : "";
      if (share >= LITTLE) return "";
      return `; next to no evidence beside the strongest here${this.part.alike.checked ? "" : ", so the map is faint"}`;
    }

    legend(word, map) {
      const {low, high, ramp: bar, common} = this.part, pixels = this.tab.dataset.kind === "gradient";
      const stops = this.table().filter((_, place) => place % 15 === 0).map(colour => `rgb(${colour})`);
      bar.style.background = `linear-gradient(to right, ${pixels ? "#000, #fff" : stops})`;
      const most = map && map.peak ? Number(this.peak(word).toPrecision(2)) : 0;
      low.textContent = this.tab.dataset.low;
      high.textContent = this.tab.dataset.high + (most ? ` (${most}, ${common.checked ? "common" : "own"} scale)` : "");
    }

    // The words that were read, such as a question's, by what each adds to the score.
    shade(word) {
      const weights = word && word.dataset.weights ? word.dataset.weights.split(" ").map(Number) : [];
      const most = Math.max(...weights.map(Math.abs), 0) || 1;
      this.read.forEach((span, place) => {
        const weight = weights[place] || 0;
        span.style.background = `rgb(${this.ramps.signed[Math.round(127.5 + 85 * weight / most)]})`;
        span.title = weights.length ? `${weight > 0 ? "+" : ""}${weight}` : "";
      });
    }
  }

  for (const root of document.querySelectorAll(".saywhy:not([data-ready])")) {
    root.dataset.ready = "";
    new Widget(root);
  }

  // In a frame that was made for the page, which is as high as what stands in it: whoever made it is told how high.
  if (document.body.classList.contains("sw-framed") && parent !== window) {
    const told = () => parent.postMessage({saywhyHeight: document.documentElement.offsetHeight}, "*");
    new ResizeObserver(told).observe(document.documentElement);
  }
})();
