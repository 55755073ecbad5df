// Three class means in the plane, and the simplex frame nearest to them: the polar factor of
// (means × reference frame), two by two, in closed form. Turn and stretch the means.
nclibLive.figure("guiding-collapse", {
  controls: [
    { id: "turn", label: "first mean, turned by (degrees)", min: -120, max: 120, step: 1, value: 40 },
    { id: "length", label: "first mean, length", min: 0.1, max: 2, step: 0.02, value: 1.4 },
    { id: "mirror", label: "second mean, turned by", min: -180, max: 180, step: 1, value: 10 },
  ],
  reference: [0, 1, 2].map((k) => [Math.cos((2 * Math.PI * k) / 3), Math.sin((2 * Math.PI * k) / 3)]),
  means({ turn, length, mirror }) {
    const at = (angle, r) => [r * Math.cos(angle), r * Math.sin(angle)];
    const degree = Math.PI / 180;
    return [at(turn * degree, length), at((2 * Math.PI) / 3 + mirror * degree, 1), this.reference[2]];
  },
  compute(values) {
    const means = this.means(values);
    const center = [0, 1].map((i) => (means[0][i] + means[1][i] + means[2][i]) / 3);
    const Y = means.map((m) => [m[0] - center[0], m[1] - center[1]]);
    let [p, q, r, s] = [0, 0, 0, 0]; // Σ Y_k F_kᵀ
    Y.forEach(([y0, y1], k) => {
      const [f0, f1] = this.reference[k];
      p += y0 * f0; q += y0 * f1; r += y1 * f0; s += y1 * f1;
    });
    // The nearer of the nearest rotation and the nearest reflection.
    const [turn, flip] = [Math.hypot(p + s, q - r), Math.hypot(p - s, q + r)];
    const R = turn >= flip
      ? [[(p + s) / turn, (q - r) / turn], [(r - q) / turn, (p + s) / turn]]
      : [[(p - s) / flip, (q + r) / flip], [(q + r) / flip, (s - p) / flip]];
    const frame = this.reference.map(([f0, f1]) =>
      [R[0][0] * f0 + R[0][1] * f1, R[1][0] * f0 + R[1][1] * f1]);
    const size = Math.hypot(...Y.flat()), unit = Math.sqrt(3);
    const distance = Math.sqrt(Math.max(0, Y.reduce((sum, y, k) => sum +
      (y[0] / size - frame[k][0] / unit) ** 2 + (y[1] / size - frame[k][1] / unit) ** 2, 0)));
    return { x: frame[0][0], y: frame[0][1], x2: frame[1][0], y2: frame[1][1], distance,
      reflected: flip > turn ? 1 : 0, center };
  },
  draw(svg, values, now) {
    const means = this.means(values), place = ([x, y]) => [300 + 75 * x, 150 - 75 * y];
    const last = [-now.x - now.x2, -now.y - now.y2];
    [[now.x, now.y], [now.x2, now.y2], last].forEach((f, k) => {
      const color = nclibLive.COLORS[k];
      svg.line([place([0, 0]), place(f)], { stroke: color, "stroke-width": 5 });
      const [x, y] = place([means[k][0] - now.center[0], means[k][1] - now.center[1]]);
      svg.add("circle", { cx: x, cy: y, r: 8, fill: color });
      svg.line([[x, y], place(f)], { stroke: color, "stroke-dasharray": "3 4", "stroke-width": 1.5 });
    });
    const f = nclibLive.number;
    return `Dots: the centered class means. Lines: the nearest simplex frame, at distance ` +
      `${f(now.distance)} from the means scaled to length one` +
      (now.reflected ? "; it is a mirror image of the frame that the means started from." : ".");
  },
});
