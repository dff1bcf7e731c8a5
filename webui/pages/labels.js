// What Gradio (6.31) does not tell a screen reader or the keyboard: which side a conversation is, that a status has
// changed, which keys vote; and what is wider than its place is reached by Tab, to be scrolled by the arrow keys.
(() => {
  const keys = { "vote-a": "A", "vote-b": "B", "vote-tie": "T", "vote-both_bad": "X", new: "N" };
  const label = () => {
    for (const log of document.querySelectorAll(".side [role=log]")) {
      log.ariaLabel = log.closest(".side-b") ? "Answers of model B" : "Answers of model A";
      log.querySelector("[role=complementary]")?.removeAttribute("role");
    }
    for (const told of document.querySelectorAll(".status:not([role]), .notice:not([role])")) told.role = "status";
    for (const name in keys) {
      const button = document.querySelector(`#battle-${name}, #named-${name}, #direct-${name}`);
      button?.setAttribute("aria-keyshortcuts", `${keys[name]} Alt+${keys[name]}`);
    }
    for (const wide of document.querySelectorAll(".side :is(pre, table, .katex-display):not([tabindex])")) {
      if (wide.scrollWidth > wide.clientWidth) wide.tabIndex = 0;
    }
  };
  let due = false;
  const soon = () => {
    if (due) return;
    due = true;
    setTimeout(() => {
      due = false;
      label();
    }, 300);
  };
  new MutationObserver(soon).observe(document, { childList: true, subtree: true });
})();
