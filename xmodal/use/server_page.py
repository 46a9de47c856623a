"""The page of a server: drop a film, picture or cloud on it and see the answers of all tasks."""

from collections.abc import Sequence
from typing import Any

from xmodal import page

DROP = """
<label id="drop" tabindex="0"><input type="file" id="files" multiple>
drop videos, pictures or point clouds here, or click to choose</label><div id="answers" aria-live="polite"></div>
"""
SCRIPT = """
const drop = document.getElementById("drop"), answers = document.getElementById("answers");
function element(kind, text, name) {
  const made = document.createElement(kind);
  if (text) made.textContent = text;
  if (name) made.className = name;
  return made;
}
function line(name, score) {
  const row = element("div", "", "score"), bar = element("i");
  bar.style.width = `${Math.round(100 * score)}%`;
  row.append(bar, element("span", `${name} ${(100 * score).toFixed(1)} %`));
  return row;
}
function told(row) {
  if (row.error) return [element("span", row.error, "no")];
  if (row.top) return row.top.map(entry => line(entry.name, entry.score));
  if (row.boxes) return row.boxes.slice(0, 12).map(box => line(box.name, box.score));
  if (row.counts) {
    const all = Object.values(row.counts).reduce((a, b) => a + b, 0);
    return Object.entries(row.counts).map(([name, count]) => line(name, count / all));
  }
  return [element("code", JSON.stringify(row))];
}
async function ask(file) {
  const box = element("div", "", "answer exhibit"), media = element("div", "", "media"), said = element("div", "...");
  box.tabIndex = 0;
  if (/^(video|image)/.test(file.type)) {
    const shown = element(file.type.startsWith("video") ? "video" : "img");
    shown.src = URL.createObjectURL(file);
    Object.assign(shown, {autoplay: true, loop: true, muted: true});
    media.append(shown);
  }
  media.append(element("code", file.name));
  box.append(media, said);
  answers.prepend(box);
  try {
    const reply = await fetch(`predict?name=${encodeURIComponent(file.name)}`, {method: "POST", body: file});
    const found = await reply.json();
    said.remove();
    if (found.error) box.append(element("div", `${reply.status}: ${found.error}`, "no task"));
    for (const [name, row] of Object.entries(found.tasks || {})) {
      const task = element("div", "", "task");
      task.append(element("b", name), ...told(row));
      box.append(task);
    }
  } catch (error) { said.textContent = `no answer: ${error.message}`; said.className = "no"; }
}
async function all(files) { for (const file of files) await ask(file); }
document.getElementById("files").onchange = event => all([...event.target.files]);
drop.onkeydown = event => { if (event.key === "Enter") document.getElementById("files").click(); };
for (const kind of ["dragover", "dragleave", "drop"]) document.addEventListener(kind, event => {
  event.preventDefault();
  drop.classList.toggle("over", kind === "dragover");
  if (kind === "drop") all([...event.dataTransfer.files]);
});
"""


def drop_page(tasks: Sequence[dict[str, Any]]) -> str:
    """Return the page.

    Args:
        tasks: name, kind, classes and formats of each.
    """
    rows = [
        [t["name"], t["kind"], len(t["classes"]), ", ".join(t["classes"][:8]), " ".join(t["formats"])] for t in tasks
    ]
    table = page.table(("task", "reads", "classes", "such as", "formats"), rows)
    return page.document("Ask the models", [DROP, page.section("Tasks", table)], SCRIPT)
