// What do the programs of this directory share? The question, the tool, and how to show an error and what was seen.

export const question = "What is easy 1 + 2?";
export const url = process.argv[2];

export const add = ({ a, b }) => a + b;

/** The name and the message of the error that a call must end with. */
export async function caught(call) {
  try {
    await call();
  } catch (error) {
    return { name: error.name === "Error" ? error.constructor.name : error.name, message: String(error.message) };
  }
  throw new Error("nothing was refused");
}

export const show = (seen) => console.log(JSON.stringify(seen));
