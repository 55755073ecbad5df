// Four classes, three modes of the logits in the Hadamard basis, balanced layers: gradient flow
// λ_k' = 4 λ_k Σ_x A_xk p_x with p_x the probability of wrong class x. Fourth-order steps in log t.
nclibLive.figure("hadamard-softmax", {
  controls: [
    { id: "a", label: "first mode at the start", min: -3, max: 0, step: 0.05, value: -2, log: true },
    { id: "b", label: "second mode", min: -3, max: 0, step: 0.05, value: -1.5, log: true },
    { id: "c", label: "third mode", min: -3, max: 0, step: 0.05, value: -0.5, log: true },
    { id: "t", label: "time t", min: -2, max: 8, step: 0.05, value: 1, log: true },
  ],
  slope(logs) {
    const A = [[1, 0, 1], [0, 1, 1], [1, 1, 0]]; // 1 where the sign of mode k is −1 at class x
    const modes = logs.map(Math.exp);
    const odds = A.map((row) => Math.exp(-row.reduce((y, a, k) => y + a * modes[k], 0) / 2));
    const all = 1 + odds[0] + odds[1] + odds[2];
    return [0, 1, 2].map((k) => (4 * A.reduce((sum, row, x) => sum + row[k] * odds[x], 0)) / all);
  },
  path({ a, b, c }, t, steps = 4000) {
    // u = log(1 + t / t0): small steps at first, long ones later
    const t0 = 0.02, h = Math.log1p(t / t0) / steps, points = [];
    let logs = [a, b, c].map(Math.log);
    const rate = (u, y) => this.slope(y).map((v) => v * t0 * Math.exp(u));
    const ahead = (y, k, s) => y.map((v, i) => v + s * k[i]);
    for (let i = 0; i <= steps; i++) {
      points.push([t0 * Math.expm1(i * h), logs.map(Math.exp)]);
      const u = i * h, k1 = rate(u, logs), k2 = rate(u + h / 2, ahead(logs, k1, h / 2));
      const k3 = rate(u + h / 2, ahead(logs, k2, h / 2)), k4 = rate(u + h, ahead(logs, k3, h));
      logs = logs.map((v, j) => v + (h / 6) * (k1[j] + 2 * k2[j] + 2 * k3[j] + k4[j]));
    }
    return points;
  },
  compute(values) {
    const modes = this.path(values, values.t).at(-1)[1];
    const mean = (modes[0] + modes[1] + modes[2]) / 3;
    return { a: modes[0], b: modes[1], c: modes[2], mean,
      spread: Math.max(...modes) / Math.min(...modes) };
  },
  draw(svg, values, now) {
    const { X, Y } = svg.axes({ box: [60, 30, 560, 240], x: [-2, 8], y: [0, 3], ends: false,
      labels: ["log₁₀ t", "mode ÷ mean of the modes"] });
    for (const v of [-2, 0, 2, 4, 6, 8])
      svg.text(X(v), 258, nclibLive.number(v), { "text-anchor": "middle" });
    for (const v of [0, 1, 3]) svg.text(52, Y(v) + 4, String(v), { "text-anchor": "end" });
    svg.line([[60, Y(1)], [560, Y(1)]],
      { stroke: "currentColor", "stroke-dasharray": "4 4", "stroke-opacity": 0.5, "stroke-width": 1 });
    const points = this.path(values, 1e8, 1500).filter(([t]) => t >= 0.01);
    for (let k = 0; k < 3; k++) {
      svg.line(points.map(([t, m]) => [X(Math.log10(t)), Y((3 * m[k]) / (m[0] + m[1] + m[2]))]),
        { stroke: nclibLive.COLORS[k] });
      svg.add("circle", { cx: X(Math.log10(values.t)), cy: Y([now.a, now.b, now.c][k] / now.mean),
        r: 5, fill: nclibLive.COLORS[k] });
    }
    const f = nclibLive.number;
    return `At t = ${f(values.t)} the modes are ${f(now.a)}, ${f(now.b)} and ${f(now.c)}; the largest ` +
      `is ${f(now.spread)} times the smallest. Equal modes are the collapsed direction, and the modes ` +
      `still grow.`;
  },
});
