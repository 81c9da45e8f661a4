// The openai Node client, unmodified. Usage: node openai_node.mjs BASE_URL CHAT_MODEL EMBED_MODEL
// Prints one `ok` or `FAIL` line a check; openai_node.py starts the server and counts.
import OpenAI from "openai";

const [base, chat, embed] = process.argv.slice(2);
const client = new OpenAI({ baseURL: base, apiKey: "unused", maxRetries: 0, timeout: 120_000 });
const ask = { model: chat, messages: [{ role: "user", content: "Tell me a short story about a fox." }], max_tokens: 24, temperature: 0 };

async function check(name, body) {
  try {
    const [ok, detail] = await body();
    console.log(`${ok ? "ok   " : "FAIL "} ${name}` + (detail === undefined ? "" : `  [${detail}]`));
  } catch (error) {
    console.log(`FAIL  ${name}  [${error.constructor.name}: ${String(error.message).slice(0, 300)}]`);
  }
}

let whole = "";
await check("node: list models", async () => {
  const ids = [];
  for await (const model of client.models.list()) ids.push(model.id);
  return [ids.includes(chat) && ids.includes(embed), ids];
});
await check("node: chat", async () => {
  const answer = await client.chat.completions.create(ask);
  whole = answer.choices[0].message.content;
  return [whole.length > 0 && answer.usage.total_tokens > 0, JSON.stringify(whole.slice(0, 60))];
});
await check("node: stream", async () => {
  let text = "", end = null, usage = null;
  for await (const chunk of await client.chat.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } })) {
    text += chunk.choices[0]?.delta?.content ?? "";
    end = chunk.choices[0]?.finish_reason ?? end;
    usage = chunk.usage ?? usage;
  }
  return [text === whole && end !== null && usage.completion_tokens > 0, end];
});
await check("node: stream left early", async () => {
  const stream = await client.chat.completions.create({ ...ask, max_tokens: 200, stream: true });
  for await (const chunk of stream) if (chunk.choices[0]?.delta?.content) break;
  stream.controller.abort();
  return [true];
});
await check("node: embeddings, base64 by default, equal floats", async () => {
  const input = ["The cat sat on the mat.", "A dog barks."];
  const a = await client.embeddings.create({ model: embed, input });
  const b = await client.embeddings.create({ model: embed, input, encoding_format: "float" });
  const same = a.data.every((d, i) => d.embedding.length === b.data[i].embedding.length &&
    d.embedding.every((x, j) => Math.fround(x) === Math.fround(b.data[i].embedding[j])));
  return [same && a.data.length === 2, `${a.data[0].embedding.length} dimensions`];
});
await check("node: unknown model is NotFoundError", async () => {
  try {
    await client.chat.completions.create({ ...ask, model: "absent" });
  } catch (error) {
    return [error instanceof OpenAI.NotFoundError && error.code === "model_not_found", error.code];
  }
  return [false, "no error"];
});
await check("node: tools are BadRequestError naming them", async () => {
  try {
    await client.chat.completions.create({ ...ask, tools: [{ type: "function", function: { name: "f" } }] });
  } catch (error) {
    return [error instanceof OpenAI.BadRequestError && String(error.param).startsWith("tools"), error.param];
  }
  return [false, "no error"];
});
