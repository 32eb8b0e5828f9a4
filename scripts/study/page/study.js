"use strict";
// The pages of a study: consent, instructions, practice with feedback, trials, debriefing. jsPsych shows them.

const STAGE = "stage";
const TOO_SOON = 300; // milliseconds in which a double click can't answer the next trial

async function main() {
  const [design, ...texts] = await Promise.all([
    read("design.json").then(reply => reply.json()),
    ...["consent", "instructions", "debriefing"].map(name => read(`texts/${name}.txt`).then(reply => reply.text())),
  ]);
  if (typeof initJsPsych === "undefined") {
    throw new Error("jsPsych could not be loaded. Without a network, build the study with --jspsych.");
  }
  const [consent, instructions, debriefing] = texts.map(formatted);
  const session = new Session(design);
  if (!session.begun && !await agreed(session, consent)) return refused();
  if (!session.state.done) await asked(session, instructions);
  await ended(session, debriefing);
}

async function read(address) {
  const reply = await fetch(address, { cache: "no-store" });
  if (!reply.ok) throw new Error(`${address} could not be loaded (${reply.status}).`);
  return reply;
}

// Runs screens in a jsPsych of their own.
function run(timeline) {
  return new Promise((resolve, reject) => {
    show("");
    const jsPsych = initJsPsych({ display_element: STAGE, on_finish: resolve });
    jsPsych.run(timeline).catch(reject);
  });
}

function screen(stimulus, choices, more = {}) {
  return { type: jsPsychHtmlButtonResponse, stimulus, choices, button_layout: "flex", ...more };
}

async function agreed(session, consent) {
  const field = `<label for="participant">A code name of your own choice</label>
    <input id="participant" maxlength="64" autocomplete="off" spellcheck="false">
    <p class="hint">You need not give one. With it you can have your answers deleted later. Not your real name.</p>`;
  let name = "", choice = 1;
  await run([screen(`<div class="text">${consent}${session.prolific ? "" : field}</div>`,
    ["I take part", "I don't take part"], {
      on_load: () => document.getElementById("participant")?.addEventListener("input", e => { name = e.target.value; }),
      on_finish: data => { choice = data.response; },
    })]);
  if (choice === 0) await session.begin(name);
  return choice === 0;
}

function refused() {
  show('<div class="text"><h1>You do not take part</h1><p>Nothing was kept. You can close this page.</p></div>');
}

async function asked(session, instructions) {
  const { design, state } = session;
  const again = state.answers.length > 0;
  const timeline = [preloaded(session)];
  if (!state.practised) timeline.push(screen(`<div class="text">${instructions}</div>`, ["Begin"]), ...practice(session));
  if (again) timeline.push(screen('<div class="text"><h1>Welcome back</h1><p>It goes on where you were.</p></div>', ["Go on"]));
  state.items.forEach((item, number) => { if (number >= state.answers.length) timeline.push(trial(session, item, number)); });
  await run(timeline);
  state.done = true;
  session.save();
}

function preloaded(session) {
  const { design, state } = session;
  const ids = [...(state.practised ? [] : design.practice), ...state.items.slice(state.answers.length).map(item => item.id)];
  const images = [...new Set(ids.flatMap(id => design.trials[id].images.map(address)))];
  return { type: jsPsychPreload, images, message: '<p class="wait">Loading the pictures&hellip;</p>', max_load_time: 120000,
    error_message: '<p class="problem">Some pictures could not be loaded. Please reload this page.</p>' };
}

function practice(session) {
  const { design, state } = session;
  const screens = design.practice.flatMap((id, number) => {
    const item = session.item(id), known = design.trials[id];
    let answer = null;
    return [
      question(session, item, `Practice ${number + 1} of ${design.practice.length}`, data => { answer = item.order[data.response]; }),
      screen(() => looked(design, known, "Practice") + told(design, known, answer), ["Next"], { enable_button_after: TOO_SOON }),
    ];
  });
  const begin = `<div class="text"><h1>Now it begins</h1><p>There are ${state.items.length} questions. From now on you are
    not told whether you were right. If the page is closed or reloaded, it goes on where you were.</p></div>`;
  return [...screens, screen(begin, ["Begin"], { on_finish: () => { state.practised = true; session.save(); } })];
}

// What is said after an answer in practice. A rating is right on the better side of the middle.
function told(design, known, answer) {
  const middle = (known.options.length - 1) / 2;
  const right = design.measure === "rating" ? (answer - middle) * (known.right - middle) > 0 : answer === known.right;
  return `<p class="told ${right ? "right" : "wrong"}">${right ? "Yes." : "No."} ${escaped(known.feedback)}</p>`;
}

function trial(session, item, number) {
  const place = `${number + 1} of ${session.state.items.length}`;
  return question(session, item, place, data => session.answer(number, item, data.response, data.rt), number);
}

function question(session, item, place, finish, number = null) {
  const { design } = session, known = design.trials[item.id];
  const bar = number === null ? "" : `<progress max="${session.state.items.length}" value="${number}"></progress>`;
  return screen(bar + looked(design, known, place), item.order.map(n => escaped(known.options[n])), {
    enable_button_after: TOO_SOON,
    css_classes: design.measure === "rating" && known.images.length ? ["scale"] : [],
    on_load: () => document.querySelector(".question, .about")?.focus(),
    on_finish: finish,
  });
}

function looked(design, known, place) {
  const figures = known.images.map((name, n) => `<figure><img src="${address(name)}" alt="Picture ${"AB"[n]}: what the network went by"
    draggable="false">${known.images.length > 1 ? `<figcaption>${"AB"[n]}</figcaption>` : ""}</figure>`).join("");
  const about = known.about ? `<p class="about" tabindex="-1">${escaped(known.about)}</p>` : "";
  const asked = known.question ?? design.question;
  return `<p class="place">${place}</p>${about}${figures ? `<div class="maps">${figures}</div>` : ""}
    ${asked ? `<p class="question" tabindex="-1">${escaped(asked)}</p>` : ""}`;
}

async function ended(session, debriefing) {
  show('<p class="wait">Sending your answers&hellip;</p>');
  await Promise.race([session.send(), new Promise(done => setTimeout(done, 8000))]);
  const { completion } = session.design;
  const kept = session.unsent === 0;
  const lost = `<p class="problem">Your answers could not be sent. Please download them and give the file to whoever asked you.</p>`;
  const download = kept ? "" : '<button id="download">Download your answers</button>';
  const link = completion ? `<a class="button" id="completion" rel="noreferrer" href="${escaped(completion)}">Complete the study</a>` : "";
  const next = session.prolific ? "" : '<button id="next" class="plain">Another person</button>';
  show(`<div class="text">${kept ? "" : lost}${debriefing}<p>Your code name: <strong>${escaped(session.state.participant)}</strong></p>
    <p class="actions">${download}${link}${next}</p></div>`);
  document.getElementById("download")?.addEventListener("click", () => saved(session));
  document.getElementById("next")?.addEventListener("click", () => another(session));
  if (!kept) session.send().then(() => { if (!session.unsent) ended(session, debriefing); });
}

// Whoever comes next at this computer begins anew; answers that were not received must have been downloaded.
function another(session) {
  if (session.unsent && !confirm("The answers were not sent. Were they downloaded? They are forgotten now.")) return;
  session.forget();
  location.reload();
}

function saved(session) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([session.lines()], { type: "application/x-ndjson" }));
  link.download = `answers-${session.state.session}.jsonl`;
  link.click();
}

function show(html) { document.getElementById(STAGE).innerHTML = html; }
function address(name) { return `stimuli/${encodeURIComponent(name)}`; }
function escaped(text) { const part = document.createElement("p"); part.textContent = text; return part.innerHTML.replaceAll('"', "&quot;"); }

// Plain text: paragraphs between blank lines, a heading after '# '.
function formatted(text) {
  const parts = text.split(/\n\s*\n/).map(part => part.trim()).filter(Boolean);
  return parts.map(part => part.startsWith("# ") ? `<h1>${escaped(part.slice(2))}</h1>` : `<p>${escaped(part)}</p>`).join("");
}

main().catch(problem => show(`<div class="text"><h1>This page can't go on</h1><p class="problem">${escaped(problem.message)}</p></div>`));
