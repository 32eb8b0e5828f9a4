"use strict";
// One person's session: which trials in which order, the answers so far, and what of them has been received.
// It is kept in the browser's storage after every answer, so a reload goes on where it was.

class Session {
  constructor(design, address = location.search) {
    this.design = design;
    this.key = `saywhy-study-${design.id}`;
    this.address = new URLSearchParams(address);
    this.state = this.stored() || this.fresh();
    this.sending = null;
  }

  stored() {
    try {
      const state = JSON.parse(localStorage.getItem(this.key));
      // Another person from Prolific at the same computer begins anew.
      return state && (!this.prolific || this.prolific === state.participant) ? state : null;
    } catch { return null; }
  }

  fresh() {
    return { session: random(), participant: "", list: null, items: [], answers: [], received: 0, practised: false,
      receiver: true, done: false };
  }

  get prolific() { return (this.address.get("PROLIFIC_PID") || "").slice(0, 64); }
  get unsent() { return this.state.answers.length - this.state.received; }
  get begun() { return this.state.list !== null; }

  save() {
    try { localStorage.setItem(this.key, JSON.stringify(this.state)); } catch { /* private windows: memory alone */ }
  }

  forget() {
    try { localStorage.removeItem(this.key); } catch { /* nothing was kept */ }
  }

  // A list from the receiver, which gives out each as often; without one, by chance.
  async begin(participant) {
    this.state.participant = this.prolific || participant.trim().slice(0, 64) || `anonymous-${random().slice(0, 6)}`;
    const reply = await this.post({ begin: true });
    const lists = this.design.lists;
    const list = reply && reply.list in lists ? reply.list : Math.floor(Math.random() * lists.length);
    this.state.items = this.ordered(lists[list]);
    this.state.list = list;
    this.save();
  }

  // The trials of a list in a random order, attention checks spread among them, choices in a random order.
  ordered(list) {
    const ids = shuffled(list);
    const checks = shuffled(this.design.checks);
    checks.forEach((id, n) => ids.splice(Math.round((n + 1) * list.length / (checks.length + 1)) + n, 0, id));
    return ids.map(id => this.item(id));
  }

  item(id) {
    const trial = this.design.trials[id];
    const places = trial.options.map((_, n) => n);
    const rates = this.design.measure === "rating" && trial.images.length > 0;
    return { id, order: rates ? places : shuffled(places) };
  }

  answer(number, item, button, milliseconds) {
    this.state.answers.push({ number, trial: item.id, response: item.order[button], ms: Math.round(milliseconds),
      order: item.order });
    this.save();
    this.send();
  }

  about() {
    const { participant, session, list } = this.state;
    return { study: this.design.id, participant, session, list };
  }

  // Sends what has not been received, one request at a time; tries again until it is, or until there is no receiver.
  send() {
    this.sending = this.sending || this.sendAll().finally(() => { this.sending = null; });
    return this.sending;
  }

  async sendAll() {
    for (let wait = 1000; this.unsent && this.state.receiver; ) {
      const part = this.state.answers.slice(this.state.received, this.state.received + 50);
      const reply = await this.post({ answers: part });
      if (reply) {
        this.state.received += part.length;
        this.save();
        wait = 1000;
      } else if (this.state.receiver) {
        await new Promise(done => setTimeout(done, wait));
        wait = Math.min(2 * wait, 30000);
      }
    }
  }

  // The receiver's reply, or null. A host of static pages has no receiver: then answers are downloaded at the end.
  async post(what) {
    if (!this.state.receiver) return null;
    try {
      const reply = await fetch("answers", { method: "POST", keepalive: true,
        headers: { "Content-Type": "application/json" }, body: JSON.stringify({ ...this.about(), ...what }) });
      const said = (reply.headers.get("Content-Type") || "").startsWith("application/json");
      if (reply.ok && said) return await reply.json();
      if (!said && reply.status < 500 || reply.status === 501) this.state.receiver = false;
    } catch { /* no network at the moment */ }
    return null;
  }

  // All answers as lines of the results file, as the receiver writes them.
  lines() {
    return this.state.answers.map(each => JSON.stringify({ ...this.about(), ...each })).join("\n") + "\n";
  }
}

function random() {
  return Array.from(crypto.getRandomValues(new Uint8Array(8)), byte => byte.toString(16).padStart(2, "0")).join("");
}

function shuffled(items) {
  const all = [...items];
  for (let n = all.length - 1; n > 0; n--) {
    const other = Math.floor(Math.random() * (n + 1));
    [all[n], all[other]] = [all[other], all[n]];
  }
  return all;
}
