const root = document.documentElement;
function theme(wanted) {
  root.dataset.theme = wanted;
  try { localStorage.setItem("theme", wanted); } catch (error) { /* pages of files may not keep anything */ }
  document.dispatchEvent(new Event("theme"));
}
function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}
try { if (localStorage.getItem("theme")) root.dataset.theme = localStorage.getItem("theme"); } catch (error) { /* none */ }
document.getElementById("theme").onclick = () => theme(isDark() ? "light" : "dark");
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)) return;
  if (event.key === "t") theme(isDark() ? "light" : "dark");
  if (event.key === "j" || event.key === "k") {
    const all = [...document.querySelectorAll(".exhibit")];
    const at = all.indexOf(document.activeElement.closest(".exhibit"));
    const next = all[at < 0 ? 0 : Math.min(all.length - 1, Math.max(0, at + (event.key === "j" ? 1 : -1)))];
    if (next) { next.focus(); next.scrollIntoView({block: "nearest"}); }
  }
  if (event.key === " ") {
    const near = document.activeElement.closest(".exhibit, .film");
    const video = near && near.querySelector("video");
    if (video) { event.preventDefault(); if (video.paused) video.play(); else video.pause(); }
  }
});

function bytes(text) { return Uint8Array.from(atob(text), letter => letter.charCodeAt(0)); }
const EDGES = [[0, 1], [1, 2], [2, 3], [3, 0], [4, 5], [5, 6], [6, 7], [7, 4], [0, 4], [1, 5], [2, 6], [3, 7]];
function view(canvas) {
  const points = new Uint16Array(bytes(canvas.dataset.points).buffer), colors = bytes(canvas.dataset.colors);
  const boxes = JSON.parse(canvas.dataset.boxes), count = points.length / 3, pen = canvas.getContext("2d");
  let turn = 0.6, tilt = 0.5, zoom = 1;
  function seen(x, y, z) {
    const a = x * Math.cos(turn) - y * Math.sin(turn), b = x * Math.sin(turn) + y * Math.cos(turn);
    const depth = b * Math.cos(tilt) - z * Math.sin(tilt), up = b * Math.sin(tilt) + z * Math.cos(tilt);
    const size = zoom * Math.min(canvas.width, canvas.height) * 0.85 / (1 + 0.3 * depth);
    return [canvas.width / 2 + a * size, canvas.height / 2 - up * size, depth];
  }
  function draw() {
    pen.clearRect(0, 0, canvas.width, canvas.height);
    const placed = [];
    for (let i = 0; i < count; i++) {
      placed.push([...seen(points[3 * i] / 65535 - 0.5, points[3 * i + 1] / 65535 - 0.5, points[3 * i + 2] / 65535 - 0.5), i]);
    }
    placed.sort((p, q) => q[2] - p[2]);
    const side = count < 1500 ? 4 : count < 4000 ? 3 : 2;
    for (const [x, y, , i] of placed) {
      pen.fillStyle = `rgb(${colors[3 * i]},${colors[3 * i + 1]},${colors[3 * i + 2]})`;
      pen.fillRect(x, y, side, side);
    }
    const style = getComputedStyle(canvas);
    pen.font = "13px system-ui";
    boxes.forEach((box, number) => {
      const corners = box.corners.map(c => seen(...c));
      pen.strokeStyle = pen.fillStyle = style.getPropertyValue(`--s${number % 8}`);
      pen.lineWidth = 2;
      pen.beginPath();
      for (const [a, b] of EDGES) { pen.moveTo(corners[a][0], corners[a][1]); pen.lineTo(corners[b][0], corners[b][1]); }
      pen.stroke();
      const top = corners.reduce((p, q) => q[1] < p[1] ? q : p);
      pen.fillText(box.name, top[0] + 4, top[1] - 4);
    });
    canvas.dataset.drawn = count;
  }
  let last = null;
  canvas.onpointerdown = event => { last = [event.clientX, event.clientY]; canvas.setPointerCapture(event.pointerId); };
  canvas.onpointerup = () => { last = null; };
  canvas.onpointermove = event => {
    if (!last) return;
    turn += (event.clientX - last[0]) / 120; tilt += (event.clientY - last[1]) / 120;
    last = [event.clientX, event.clientY];
    draw();
  };
  canvas.onkeydown = event => {
    const step = {ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, -0.15], ArrowDown: [0, 0.15]}[event.key];
    if (step) { turn += step[0]; tilt += step[1]; } else if (event.key === "+") zoom *= 1.15;
    else if (event.key === "-") zoom /= 1.15; else return;
    event.preventDefault();
    draw();
  };
  canvas.onwheel = event => {
    if (document.activeElement !== canvas) return;
    event.preventDefault(); zoom *= event.deltaY < 0 ? 1.1 : 1 / 1.1; draw();
  };
  document.addEventListener("theme", draw);
  draw();
}
document.querySelectorAll("canvas.cloud").forEach(view);
