// How is a figure written? Each element names one of these formats, and null is a dash in all of them.

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const signed = (text, value) => (value > 0 && /[1-9]/.test(text) ? `+${text}` : text);

const FORMATS = {
  count: (value) => whole.format(value),
  share: (value) => `${(100 * value).toFixed(1)} %`,
  points: (value) => signed((100 * value).toFixed(1), value),
  decimal: (value) => value.toFixed(3),
  money: (value) => value.toFixed(2),
  plain: (value) => String(value),
  text: (value) => String(value),
  time: (value) => new Date(1000 * value).toISOString().slice(0, 19).replace("T", " "),
  list: (value) => value.join(", "),
  yes: (value) => (value ? "yes" : "no"),
};

/** A value in one of the formats. */
export function format(value, name) {
  if (value === null || value === undefined || value === "" || (Array.isArray(value) && !value.length)) return "–";
  return FORMATS[name](value);
}
