// Mounts the book's widgets in a static page: no kernel, no network, and file:// works.
// A classic script, because a page opened from file:// may import no module file: the module's text
// (registered in window.gentangleSources by the scripts before this one) is imported as a blob.
(function () {
  "use strict";
  const modules = new Map();

  function load(name) {
    if (!modules.has(name)) {
      const source = (window.gentangleSources || {})[name];
      if (source === undefined) return Promise.reject(new Error(`no source registered for ${name}`));
      const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
      modules.set(name, import(url).finally(() => URL.revokeObjectURL(url)));
    }
    return modules.get(name);
  }

  // The part of anywidget's model that a module may use; without a kernel there is nobody to save to.
  function makeModel(state) {
    const values = { ...state };
    const listeners = new Map();
    const fire = (event, ...rest) => [...(listeners.get(event) || [])].forEach((listener) => listener(...rest));
    return {
      get: (name) => values[name],
      set(name, value) {
        if (values[name] === value) return;
        values[name] = value;
        fire(`change:${name}`, this, value);
        fire("change", this);
      },
      on(event, listener) {
        listeners.set(event, [...(listeners.get(event) || []), listener]);
      },
      off(event, listener) {
        listeners.set(event, (listeners.get(event) || []).filter((known) => known !== listener));
      },
      save_changes() {},
    };
  }

  async function mount(place) {
    try {
      const widget = (await load(place.dataset.widget)).default;
      const el = document.createElement("div");
      await widget.render({ model: makeModel(JSON.parse(place.dataset.state)), el });
      place.replaceChildren(el);
      place.dataset.mounted = "yes";
    } catch (error) {
      // The still picture stays in place.
      place.dataset.mounted = "no";
      console.error(`gentangle widget ${place.dataset.widget}:`, error);
    }
  }

  function start() {
    document.querySelectorAll(".gt-mount").forEach(mount);
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
