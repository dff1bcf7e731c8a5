// Keyboard shortcuts: A, B, T and X vote and N begins anew, unless something is being written; with Alt always. Escape
// leaves the box. They click the buttons, so they can do no more than those.
(() => {
  const ready = new MutationObserver(() => {
    const box = document.querySelector(".prompt textarea");
    if (!box) return;
    ready.disconnect();
    if (innerWidth > 640) box.focus({ preventScroll: true }); // on a phone this would open the keyboard
  });
  ready.observe(document, { childList: true, subtree: true });
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
