// Reads lines of JSON with the fields of the Elastic Common Schema as Elastic publishes them.
// Task: {"lines": [...]}. Answer: a list of {"problems": [...], "value": {...}}, one for each line.

const net = require("node:net");
const path = require("node:path");

const home = process.env.TRAILMESH_TEST_NODE_HOME;
const { EcsFlat } = require(path.join(home, "node_modules", "@elastic/ecs"));

const scalars = {
  keyword: (value) => typeof value === "string",
  constant_keyword: (value) => typeof value === "string",
  wildcard: (value) => typeof value === "string",
  match_only_text: (value) => typeof value === "string",
  text: (value) => typeof value === "string",
  long: (value) => Number.isInteger(value),
  float: (value) => typeof value === "number",
  boolean: (value) => typeof value === "boolean",
  ip: (value) => net.isIP(value) !== 0,
  date: (value) => /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z$/.test(value) && !Number.isNaN(Date.parse(value)),
};

function check(name, value, problems) {
  const field = EcsFlat[name];
  if (field === undefined || field.type === "object") {
    if (field === undefined && (typeof value !== "object" || Array.isArray(value) || value === null)) {
      problems.push(`${name} is no field of ECS`);
      return;
    }
    if (field !== undefined && field.object_type === "keyword") {
      for (const [label, text] of Object.entries(value)) {
        if (typeof text !== "string" || label.includes(".")) problems.push(`${name}.${label} is no keyword`);
      }
      return;
    }
    for (const [part, inner] of Object.entries(value)) check(`${name}.${part}`, inner, problems);
    return;
  }
  const many = field.normalize.includes("array");
  if (many !== Array.isArray(value)) problems.push(`${name} ${many ? "is not" : "is"} a list`);
  for (const one of many ? [value].flat() : [value]) {
    const fits = scalars[field.type];
    if (fits === undefined || !fits(one)) problems.push(`${name} is no ${field.type}: ${JSON.stringify(one)}`);
    if (field.ignore_above && one.length > field.ignore_above) problems.push(`${name} is longer than ${field.ignore_above}`);
    if (field.allowed_values && !field.allowed_values.some((allowed) => allowed.name === one)) {
      problems.push(`${name} may not be ${one}`);
    }
  }
}

function read(line) {
  const value = JSON.parse(line);
  const problems = [];
  for (const [name, inner] of Object.entries(value)) check(name, inner, problems);
  for (const field of Object.values(EcsFlat)) {
    if (field.required && field.flat_name.split(".").reduce((at, part) => at && at[part], value) === undefined) {
      problems.push(`${field.flat_name} is missing`);
    }
  }
  const categories = EcsFlat["event.category"].allowed_values.filter((one) => value.event.category.includes(one.name));
  const expected = categories.flatMap((one) => one.expected_event_types);
  for (const type of value.event.type) {
    if (!expected.includes(type)) problems.push(`event.type ${type} is not of ${value.event.category}`);
  }
  return { problems, value };
}

let text = "";
process.stdin.setEncoding("utf8");
process.stdin.on("data", (part) => (text += part));
process.stdin.on("end", () => process.stdout.write(JSON.stringify(JSON.parse(text).lines.map(read))));
