// How is a figure written? Each element names one of these formats, and null is a dash in all of them.

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0, signDisplay: "negative" });
const cents = new Intl.NumberFormat("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
/** So many digits behind the point, and no minus before a zero. */
const fixed = (value, digits) => {
  const text = value.toFixed(digits);
  return /[1-9]/.test(text) ? text : text.replace("-", "");
};
const signed = (text) => (/^[0-9.]*[1-9]/.test(text) ? `+${text}` : text);

const FORMATS = {
  count: (value) => whole.format(value),
  share: (value) => `${fixed(100 * value, 1)} %`,
  points: (value) => signed(fixed(100 * value, 1)),
  decimal: (value) => fixed(value, 3),
  money: (value) => (value && Math.abs(value) < 1 ? fixed(value, 4) : cents.format(fixed(value, 2))),
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
