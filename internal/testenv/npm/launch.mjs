// node launch.mjs MODULE: runs a server module as a test wants it. It listens on a free port of
// the loopback address whatever it asks for, says "ready ORIGIN" when it does, and ends with
// its parent, whose end closes standard input.
import { Server } from 'node:net';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

const listen = Server.prototype.listen;
Server.prototype.listen = function (...args) {
  const listening = args.find((arg) => typeof arg === 'function');
  return listen.call(this, { host: '127.0.0.1', port: 0 }, () => {
    console.log(`ready http://127.0.0.1:${this.address().port}`);
    listening?.();
  });
};

process.stdin.on('end', () => process.exit()).resume();

await import(pathToFileURL(resolve(process.argv[2])));
