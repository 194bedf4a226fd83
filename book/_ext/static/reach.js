// A formula or figure that scrolls in its own box can be reached by the keyboard: it takes the focus, and then the arrow keys scroll it. The theme does so for code.
(function () {
  "use strict";
  const SCROLLS = ".bd-article mjx-container[display=true], .bd-article .gt-figure";

  function reach() {
    for (const box of document.querySelectorAll(SCROLLS)) {
      const scrolls = box.scrollWidth > box.clientWidth && getComputedStyle(box).overflowX !== "visible";
      if (scrolls) box.tabIndex = 0;
      else if (box.tabIndex === 0) box.removeAttribute("tabindex");
    }
  }

  let waiting = 0;
  const later = () => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(reach);
  };
  addEventListener("resize", later);
  addEventListener("load", () => {
    later();
    const typeset = window.MathJax?.startup?.promise;
    if (typeset) typeset.then(later);
  });
})();
