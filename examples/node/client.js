// A Node client for Lockstep: classify, generate, follow, and pipeline many texts.
//
//   npm install && node client.js [HOST:PORT]
//
// The script reads the messages from the .proto file at startup, so there is no code generation.
'use strict';

const path = require('node:path');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');

const ADDRESS = process.argv[2] ?? 'localhost:8001';
const PROTOS = process.env.LOCKSTEP_PROTOS ?? path.join(__dirname, '..', '..', 'proto');

const definition = protoLoader.loadSync('lockstep/v1/sequences.proto', {
  includeDirs: [PROTOS],
  keepCase: true, // field names as in the .proto file
  longs: Number, // ids and positions are below 2^53
  enums: String,
  defaults: true,
});
const { Sequences } = grpc.loadPackageDefinition(definition).lockstep.v1;

const client = new Sequences(ADDRESS, grpc.credentials.createInsecure(), {
  'grpc.max_receive_message_length': 64 << 20,
  // Retry while the server is unavailable or overloaded, after the delay that it sends.
  'grpc.service_config': JSON.stringify({
    methodConfig: [{
      name: [{}],
      retryPolicy: {
        maxAttempts: 4,
        initialBackoff: '0.1s',
        maxBackoff: '1s',
        backoffMultiplier: 2,
        retryableStatusCodes: ['UNAVAILABLE', 'RESOURCE_EXHAUSTED'],
      },
    }],
  }),
});

const within = (seconds) => ({ deadline: Date.now() + seconds * 1000 });

function classify(request) {
  return new Promise((resolve, reject) => {
    client.Classify(request, within(10), (error, reply) => (error ? reject(error) : resolve(reply)));
  });
}

async function main() {
  const texts = ['a warm , funny and moving film', 'two hours of noise without a single idea'];
  const reply = await classify({ model: 'sentiment-lstm', texts });
  reply.results.forEach((one, index) => {
    const [best] = one.labels; // most probable first
    console.log(`${best.name} ${best.probability.toFixed(2)} ${texts[index]}`);
  });

  const generated = client.Generate(
    { model: 'shakespeare-char-lstm', text: 'ROMEO:', max_tokens: 80, temperature: 0.8, seed: 7 },
    within(30),
  );
  for await (const part of generated) { // to leave the loop early: generated.cancel()
    process.stdout.write(part.text);
    if (part.reason !== 'STOP_REASON_UNSPECIFIED') console.log(`\n-- ended by ${part.reason}`);
  }

  const following = client.Follow(within(30));
  following.write({ start: { model: 'sentiment-lstm', top_k: 1 } });
  for (const word of 'it is funny , not sad'.split(' ')) following.write({ text: `${word} ` });
  following.end();
  for await (const one of following) console.log(`${one.position} ${one.element} ${one.labels[0].name}`);

  const many = client.ClassifyMany(within(60));
  for (let first = 0; first < 1000; first += 50) {
    const some = Array.from({ length: 50 }, (_, n) => `a film of ${'very '.repeat((first + n) % 7)}good`);
    many.write({ model: 'sentiment-bow', texts: some, top_k: 1 });
  }
  many.end();
  let answered = 0;
  for await (const { outcomes } of many) {
    for (const one of outcomes) { // by number: 0 is the first text of the stream
      if (one.outcome === 'failure') console.error(`text ${one.number}: ${one.failure.message}`);
      else answered += 1;
    }
  }
  console.log(`${answered} texts over one stream`);

  try {
    await classify({ model: 'nobody', texts });
  } catch (error) {
    console.log(`${grpc.status[error.code]}: ${error.details}`);
  }
}

main()
  .catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
  })
  .finally(() => client.close());
