// Keyboard shortcuts: A, B, T and X vote and N begins anew, unless something is being written; with Alt always. Escape
// leaves the box. They click the buttons, so they can do no more than those. What is written and not sent is there again
// when the page is loaded again, as Gradio does by itself once a connection that broke is back.
(() => {
  const ready = new MutationObserver(() => {
    const box = document.querySelector(".prompt textarea:not(:disabled)");
    if (!box) return;
    ready.disconnect();
    const draft = sessionStorage.getItem(location.pathname);
    if (draft && !box.value) {
      box.value = draft;
      box.dispatchEvent(new Event("input"));
    }
    if (innerWidth > 640) box.focus({ preventScroll: true }); // on a phone this would open the keyboard
  });
  ready.observe(document, { childList: true, subtree: true, attributeFilter: ["disabled"] });
  addEventListener("pagehide", () => {
    sessionStorage.setItem(location.pathname, document.querySelector(".prompt textarea")?.value ?? "");
  });
  const buttons = { a: "vote-a", b: "vote-b", t: "vote-tie", x: "vote-both_bad", n: "new" };
  const writes = (element) => element.matches("input, textarea, select, [contenteditable=true]");
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.repeat) return;
    if (event.key === "Escape" && writes(event.target)) return event.target.blur();
    if (writes(event.target) && !event.altKey) return;
    const name = buttons[event.altKey ? event.code.replace("Key", "").toLowerCase() : event.key.toLowerCase()];
    const button = name && document.querySelector(`#battle-${name}, #named-${name}, #direct-${name}`);
    if (!button || button.disabled) return;
    event.preventDefault();
    button.click();
  });
})();
