// A frame is as high as the page in it says: the pages are sandboxed, and can only be told apart by their windows.
addEventListener("message", ({source, data}) => {
  if (!data || !Number.isFinite(data.saywhyHeight)) return;
  for (const frame of document.querySelectorAll("iframe.sd-why")) {
    if (frame.contentWindow === source) frame.style.height = `${Math.min(Math.max(data.saywhyHeight, 100), 4000)}px`;
  }
});

// Where an answer appears is brought into view, where it would be out of sight, such as on a phone.
function sdLookAt(name) {
  const place = document.getElementById(name);
  if (place && place.getBoundingClientRect().top > 0.6 * innerHeight) place.scrollIntoView({block: "start", behavior: "smooth"});
}

// Thumbnails of the samples have no names; their files have.
new MutationObserver(() => {
  for (const button of document.querySelectorAll("#sd-samples button:not([title])")) {
    const image = button.querySelector("img");
    if (!image) continue;
    const file = decodeURIComponent(image.src.split("/").pop());
    button.title = `Example: ${file.replace(/\.\w+$/, "").replaceAll("_", " ")}`;
    button.setAttribute("aria-label", button.title);
  }
}).observe(document, {childList: true, subtree: true});
