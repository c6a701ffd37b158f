// The client of the TypeScript SDK: the same checks as common.py, and its time limit of 60 s.
import { existsSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { createRequire } from "node:module";

// This file stands beside the other programs; the package is in the environment's folder.
const require = createRequire(join(process.cwd(), "node_modules", "x"));
const { Client, StreamableHTTPClientTransport } = require("@modelcontextprotocol/client");
const { StdioClientTransport } = require("@modelcontextprotocol/client/stdio");

const given = JSON.parse(process.argv[2]);
const server = given.server;
const transport = server.url
  ? new StreamableHTTPClientTransport(new URL(server.url), { requestInit: { headers: server.headers } })
  : new StdioClientTransport(server);
const client = new Client({ name: "typescript", version: "2" }, { versionNegotiation: { mode: "auto" } });
await client.connect(transport);

const task = (text) => ({ agent: "reviewer", task: text });
const report = (check, ok, detail) => console.log(JSON.stringify({ check, ok, detail: String(detail).slice(0, 300) }));

async function call(tool, args, options) {
  const answer = await client.callTool({ name: tool, arguments: args }, options);
  const text = answer.content.map((block) => block.text ?? "").join("\n");
  if (answer.isError) throw new Error(text);
  return text;
}

async function attempt(check, run) {
  try {
    report(check, ...(await run()));
  } catch (error) {
    report(check, false, error);
  }
}

async function appears(name, within) {
  for (let waited = 0; waited < within; waited += 50) {
    if (existsSync(join(given.folder, name))) return true;
    await sleep(50);
  }
  return false;
}

await attempt("listed", async () => {
  const names = (await client.listTools()).tools.map((tool) => tool.name);
  return [["invoke", "invoke_many", "result"].every((name) => names.includes(name)), `${names.length} tools`];
});
await attempt("invoked", async () => {
  const text = await call("invoke", task("echo quince"));
  return [text === "echo: echo quince", text];
});
await attempt("invoked_many", async () => {
  const text = await call("invoke_many", { tasks: [task("echo apple"), task("echo pear")] });
  return [text.includes("echo: echo apple") && text.includes("echo: echo pear"), text];
});
await attempt("side_by_side", async () => {
  const texts = await Promise.all([1, 2].map((number) => call("invoke", task(`together pair ${number}`))));
  return [texts.every((text) => text === "together"), texts];
});
await attempt("progress", async () => {
  const lines = [];
  await call("invoke", task("steps"), { onprogress: (progress) => lines.push(progress.message) });
  return [lines.length > 0, lines.join("; ")];
});
await attempt("slow", async () => {
  const text = await call("invoke", task("slow"));
  return [text === "slow but done", text];
});
await attempt("long", async () => {
  const text = await call("invoke", task("long"));
  return [text.length > 60000, `${text.length} characters`];
});
await attempt("background", async () => {
  const text = await call("invoke", { ...task("echo later"), background: true });
  const id = text.match(/id="([^"]+)"/)[1];
  const answer = await call("result", { id, wait_seconds: 20 });
  return [answer === "echo: echo later", answer];
});
await attempt("cancel", async () => {
  const controller = new AbortController();
  const running = call("invoke", task("hold me"), { signal: controller.signal }).catch(() => "");
  await appears("held-me", 30000);
  controller.abort();
  await running;
  const ended = await appears("ended-me", 8000);
  return [ended, ended ? "the agent was interrupted" : "the agent goes on"];
});
await attempt("setting", async () => {
  const quiet = call("invoke", task("slow 65")).catch((error) => String(error));
  const options = { onprogress: () => {}, resetTimeoutOnProgress: true };
  const reset = call("invoke", task("slow 65 again"), options).catch((error) => String(error));
  const [first, second] = await Promise.all([quiet, reset]);
  return [second === "slow but done", `65 s by default: ${first}; with resetTimeoutOnProgress: ${second}`];
});
await client.close();
