// Looks a page over, and tells its parent what is wrong with it, a line each; nothing if all is well.
const found = [];
const say = (words, element) => {
  const where = element ? `: ${(element.outerHTML || element.textContent).slice(0, 120)}` : "";
  found.push((words + where).replace(/\s+/g, " "));
};

document.addEventListener("securitypolicyviolation", event => say(`loads ${event.blockedURI} (${event.violatedDirective})`));

// Contrast of text, as in WCAG 2: https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio
const colour = text => (text.match(/[\d.]+/g) || []).map(Number);
const luminance = ([r, g, b]) => {
  const part = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
};
const contrast = (a, b) => {
  const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
  return (high + 0.05) / (low + 0.05);
};
const opaque = c => c.length === 3 || c[3] === 1;
const background = element => {
  for (let e = element; e; e = e.parentElement) {
    const c = colour(getComputedStyle(e).backgroundColor);
    if (c.length && opaque(c)) return c;
  }
  return DARK && getComputedStyle(document.documentElement).colorScheme.includes("dark") ? [18, 18, 18] : [255, 255, 255];
};

function checkContrast() {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const seen = new Set();
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || seen.has(element) || ["STYLE", "SCRIPT"].includes(element.tagName)) continue;
    seen.add(element);
    const style = getComputedStyle(element);
    const size = parseFloat(style.fontSize);
    const least = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
    const svg = element.closest("svg");
    // Within a picture text stands on the paper or on a stripe: wide rectangles.
    const grounds = svg
      ? [...svg.querySelectorAll("rect")].filter(r => r.width.baseVal.value > 1000).map(r => colour(getComputedStyle(r).fill))
      : [background(element)];
    const ink = colour(svg ? style.fill : style.color);
    for (const ground of grounds) {
      const ratio = contrast(ink, ground);
      if (ratio < least) { say(`contrast ${ratio.toFixed(2)} of text`, element); break; }
    }
  }
}

function checkStructure() {
  const all = selector => [...document.querySelectorAll(selector)];
  if (!document.documentElement.lang) say("the page names no language");
  if (!document.title.trim()) say("the page has no title");
  if (all("main").length !== 1) say("the page has not one main part");
  const headings = all("h1,h2,h3,h4,h5,h6").map(h => [Number(h.tagName[1]), h]);
  if (headings.filter(([level]) => level === 1).length !== 1) say("the page has not one h1");
  headings.forEach(([level, heading], i) => {
    if (level > (i ? headings[i - 1][0] : 0) + 1) say("a heading skips a level", heading);
    if (!heading.textContent.trim()) say("a heading without words", heading);
  });
  for (const svg of all("svg")) if (svg.getAttribute("role") !== "img" || !svg.getAttribute("aria-label")) say("an svg without a description", svg);
  for (const img of all("img")) if (!img.alt) say("an image without a description", img);
  for (const table of all("table")) {
    if (!table.caption || !table.caption.textContent.trim()) say("a table without a caption", table);
    for (const th of table.querySelectorAll("th")) if (!th.scope) say("a heading of a table without a scope", th);
    const columns = table.rows[0] ? table.rows[0].cells.length : 0;
    for (const row of table.rows) if (row.cells.length !== columns) say("a row of another length", row);
  }
  const ids = new Set();
  for (const element of all("[id]")) { if (ids.has(element.id)) say(`the id ${element.id} is there twice`); ids.add(element.id); }
  for (const a of all("a")) {
    if (!a.textContent.trim()) say("a link without words", a);
    const target = a.getAttribute("href") || "";
    if (target.startsWith("#") && !ids.has(target.slice(1))) say("a link leads nowhere", a);
    if (/^[a-z]+:/.test(target)) say("a link leaves the page's folder", a);
  }
  for (const element of all("[tabindex]")) {
    if (element.tabIndex > 0) say("an order of focus of its own", element);
    if (!element.getAttribute("role") || !element.getAttribute("aria-label")) say("what takes the focus has no name", element);
  }
}

function checkWidth() {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) say(`the page is wider than the window: ${document.documentElement.scrollWidth} of ${width}`);
  for (const element of document.body.querySelectorAll("*")) {
    const scrolls = ["auto", "scroll"].includes(getComputedStyle(element).overflowX);
    if (scrolls && element.scrollWidth > element.clientWidth && element.tabIndex < 0) say("what scrolls cannot be reached by the keyboard", element);
    if (element.closest("svg") || element.parentElement.closest(".scroll, .pan")) continue;
    if (element.getBoundingClientRect().right > width + 1) say("an element is wider than the window", element);
  }
}

addEventListener("load", async () => {
  if (matchMedia("(prefers-color-scheme: dark)").matches !== DARK) say("the browser does not prefer what it was told");
  for (const details of document.querySelectorAll("details")) details.open = true;
  checkWidth();
  checkStructure();
  checkContrast();
  for (const entry of performance.getEntriesByType("resource")) say(`loads ${entry.name}`);
  if (typeof axe === "object") {
    const result = await axe.run(document, { resultTypes: ["violations"] });
    for (const rule of result.violations) {
      if (["serious", "critical"].includes(rule.impact)) say(`axe: ${rule.id} (${rule.nodes.length}): ${rule.nodes[0].failureSummary}`);
    }
  }
  // Without this a page that is well would look like one that was never looked at.
  parent.postMessage([...new Set(found)].join("\n"), "*");
});
