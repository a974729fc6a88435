// What is wider than its box scrolls in it, and so with the keys too.
"use strict";
{
  const BOXES = ".bd-article :is(table, .math, mjx-container, pre, .output)";
  const reach = () => {
    for (const box of document.querySelectorAll(BOXES)) {
      if (box.scrollWidth > box.clientWidth + 8) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  };
  addEventListener("load", () => {
    reach();
    window.MathJax?.startup?.promise?.then(reach);
  });
  addEventListener("resize", reach);

  // Read from a disk, a page cannot ask for the text of the others: the search then lists titles alone.
  if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}
