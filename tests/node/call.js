// Calls ADDRESS over mutual TLS as CLIENT, with TOKEN if given. Prints the health and the model's labels, or the status.
"use strict";
const { readFileSync } = require("node:fs");
const grpc = require("@grpc/grpc-js");

const [address, folder, client, token] = process.argv.slice(2);
const read = (name) => readFileSync(`${folder}/${name}`);
const credentials = grpc.credentials.createSsl(read("ca.pem"), read(`${client}.key`), read(`${client}.pem`));
const channel = new grpc.Client(address, credentials);
const metadata = new grpc.Metadata();
if (token) metadata.set("authorization", `Bearer ${token}`);
const bytes = (value) => value;

function call(path, request) {
  return new Promise((resolve, reject) =>
    channel.makeUnaryRequest(path, bytes, bytes, request, metadata, (error, reply) =>
      error ? reject(error) : resolve(reply)));
}

// message ClassifyRequest: model = 1, texts = 3
const field = (number, text) => Buffer.concat([Buffer.from([(number << 3) | 2, text.length]), Buffer.from(text)]);

call("/grpc.health.v1.Health/Check", Buffer.alloc(0))
  .then((reply) => console.log("health", reply.toString("hex")))
  .then(() => call("/lockstep.v1.Sequences/Classify", Buffer.concat([field(1, "sentiment-bow"), field(3, "a fine film")])))
  .then((reply) => console.log("labels", ...reply.toString("latin1").match(/positive|negative/g)))
  .catch((error) => console.log("status", error.code, error.details))
  .finally(() => channel.close());
