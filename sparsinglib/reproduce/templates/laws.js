// Figure 4 by hand: points and laws of each run, drawn anew for each number of dropped points.
const runs = JSON.parse(document.getElementById("runs").textContent), drop = document.getElementById("drop");
const read = document.getElementById("read"), box = {left: 44, right: 380, top: 24, bottom: 280};
const law = (fit, d) => "b" in fit ? Math.exp(fit.b - fit.c * d ** fit.alpha) + fit.a0 : fit.a0 - fit.c / d ** fit.alpha;
const percent = x => (100 * x).toFixed(2) + " %";

function axis(values) {
  const low = Math.min(...values), high = Math.max(...values), room = 0.06 * (high - low);
  return [low - room, high + room];
}

function ticks(low, high) {
  const rough = (high - low) / 5, unit = 10 ** Math.floor(Math.log10(rough));
  const step = unit * [1, 2, 5, 10].find(n => n * unit >= rough);
  const first = Math.ceil(low / step);
  return Array.from({length: Math.floor(high / step) - first + 1}, (_, i) => (first + i) * step);
}

function draw(svg) {
  const part = runs[svg.dataset.activation], most = Math.max(...part.flatMap(run => run.points.map(p => p[0])));
  // The steep beginning would squeeze what comes after it.
  const [low, high] = axis(part.flatMap(run => [run.printed, ...run.points.filter(p => p[0] > 0.03 * most).map(p => p[1])]));
  const x = d => box.left + (box.right - box.left) * d / most;
  const y = a => box.bottom - (box.bottom - box.top) * (a - low) / (high - low);
  const inside = at => at >= box.top && at <= box.bottom;
  const out = [`<text x="${box.left}" y="14" font-weight="bold">${svg.dataset.activation}: activation ratio (%)</text>`,
    `<text x="${box.right}" y="318" text-anchor="end">tokens (billions)</text><text x="408" y="14" font-weight="bold">limit</text>`];
  for (const a of ticks(100 * low, 100 * high))
    out.push(`<path d="M${box.left} ${y(a / 100)}H${box.right}" stroke="#ddd"/><text x="38" y="${y(a / 100) + 4}" text-anchor="end">${+a.toFixed(2)}</text>`);
  for (const d of ticks(0, most))
    out.push(`<path d="M${x(d)} ${box.bottom}v4" stroke="#000"/><text x="${x(d)}" y="298" text-anchor="middle">${+d.toFixed(2)}</text>`);
  out.push(`<path d="M${box.left} ${box.top}V${box.bottom}H${box.right}" fill="none" stroke="#000"/>`);
  part.forEach((run, i) => {
    const k = Math.min(Number(drop.value), run.fits.length - 1), fit = run.fits[k], at = 418 + 21 * i;
    const marks = run.points.map(([d, a], j) => inside(y(a)) ?
      `<circle cx="${x(d)}" cy="${y(a)}" r="2" fill="${run.colour}" opacity="${j < k ? 0.25 : 0.8}"/>` : "");
    const [start, end] = [run.points[k][0], run.points[run.points.length - 1][0]];
    const line = Array.from({length: 81}, (_, j) => start + (end - start) * j / 80).map(d => [x(d), y(law(fit, d))]);
    const path = line.filter(p => inside(p[1])).map(p => p.map(v => v.toFixed(1)).join(" ")).join("L");
    const own = Math.min(Math.max(y(fit.a0), box.top), box.bottom), theirs = y(run.printed);
    out.push(`<g data-run="${i}" tabindex="0" role="img" aria-label="${run.name}">${marks.join("")}<path d="M${path}" fill="none" stroke="${run.colour}" stroke-width="1.5"/>` +
      `<path d="M${at - 6} ${own}h12" stroke="${run.colour}" stroke-width="4"/>` +
      `<path d="M${at} ${theirs - 4}l4 4l-4 4l-4 -4z" fill="#000"/>` +
      `<path d="M${at - 6} ${box.bottom + 15}h12" stroke="${run.colour}" stroke-width="10"/>` +
      `<text x="${at - 3}" y="${box.bottom + 30}" transform="rotate(60 ${at - 3} ${box.bottom + 30})">${run.name.split(" ")[0]}</text></g>`);
  });
  svg.innerHTML = out.join("");
  const show = (i, j) => {
    const run = part[i], [d, a] = run.points[j], k = Math.min(Number(drop.value), run.fits.length - 1), fit = run.fits[k];
    svg.querySelectorAll("g").forEach(g => { g.style.opacity = Number(g.dataset.run) === i ? 1 : 0.2; });
    read.textContent = `${run.name} at ${d.toFixed(0)} billion tokens: ${percent(a)}${j < k ? " (dropped)" : ""}, law ` +
      `${percent(law(fit, d))}; limit ${percent(fit.a0)} with ${k} points dropped, ${percent(run.printed)} in Table 2`;
  };
  const leave = () => svg.querySelectorAll("g").forEach(g => { g.style.opacity = 1; });
  svg.onpointerleave = svg.onfocusout = leave;
  svg.querySelectorAll("g").forEach((g, i) => { g.onfocus = () => show(i, part[i].points.length - 1); });
  svg.onpointermove = event => {
    const spot = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    let best = {far: Infinity};
    part.forEach((run, i) => run.points.forEach(([d, a], j) => {
      const far = Math.hypot(x(d) - spot.x, y(a) - spot.y);
      if (far < best.far) best = {far, i, j};
    }));
    show(best.i, best.j);
  };
}

function redraw() {
  document.getElementById("dropped").textContent = drop.value;
  document.querySelectorAll(".laws svg").forEach(draw);
}
drop.oninput = redraw;
redraw();
