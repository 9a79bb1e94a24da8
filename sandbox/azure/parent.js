// Loaded before Azurite: ends it, cleanly, when the process that started it is gone. Killed, it would lose its last
// writes; left alone, it would hold its ports against the next start.
const parent = process.ppid;
setInterval(() => {
  if (process.ppid !== parent) process.kill(process.pid, "SIGTERM");
}, 300).unref();
