// Features of old classes as a mixture: a share π as collapsed as the buffer, the rest as if never
// learned, with a part υ left outside the span of what is observed. Signal to noise of two classes,
// for the mixture as a weighted sum of features and as a law (each sample one or the other).
nclibLive.figure("replay-forgetting", {
  controls: [
    { id: "share", label: "share kept by replay π", min: 0, max: 0.98, step: 0.01, value: 0.3 },
    { id: "left", label: "left outside the span υ", min: -4, max: 0, step: 0.05, value: -1, log: true },
    { id: "beta", label: "squared length of the means β", min: 0.5, max: 10, step: 0.1, value: 4 },
    { id: "delta", label: "variance after collapse δ", min: -4, max: 0, step: 0.05, value: -1.3, log: true },
  ],
  compute({ share, left, beta, delta }) {
    const K = 10, signal = (beta * K) / (K - 1), u = left * left;
    const odds = (share / (1 - share)) ** 2;
    return {
      sum: (odds * signal + u) / (odds * delta + beta + u),
      law: (share ** 2 * signal + (1 - share) ** 2 * u) /
        (share * delta + (1 - share) * (beta + u) + share * (1 - share) * (beta + u)),
    };
  },
  draw(svg, values, now) {
    const log = (v) => Math.max(-4, Math.min(3, Math.log10(v)));
    const { X, Y } = svg.axes({ box: [70, 30, 560, 240], x: [0, 0.98], y: [-4, 3],
      labels: ["share kept by replay π", "log₁₀ of signal ÷ noise"] });
    ["sum", "law"].forEach((key, j) => {
      svg.line([...Array(99)].map((_, i) =>
        [X(i / 100), Y(log(this.compute({ ...values, share: i / 100 })[key]))]),
        { stroke: nclibLive.COLORS[j] });
      svg.add("circle", { cx: X(values.share), cy: Y(log(now[key])), r: 6,
        fill: nclibLive.COLORS[j] });
    });
    svg.text(90, 60, "a weighted sum of features", { fill: nclibLive.COLORS[0] });
    svg.text(90, 82, "a law: each sample of one kind", { fill: nclibLive.COLORS[1] });
    const f = nclibLive.number;
    return `Signal ÷ noise of two old classes of ten: ${f(now.sum)} where features are a weighted sum, ` +
      `${f(now.law)} where each sample is of one kind. Any π > 0 keeps it above zero for ever; without ` +
      `replay it goes to zero with υ.`;
  },
});
