// Prints the addresses that c-ares finds for a name, one in a line, and nothing
// for a name that does not exist.
const { resolve4, resolve6 } = require('dns').promises;

async function print(lookup) {
  try {
    for (const address of await lookup(process.argv[2])) console.log(address);
  } catch (err) {
    if (err.code !== 'ENOTFOUND' && err.code !== 'ENODATA') throw err;
  }
}

print(resolve4).then(() => print(resolve6));
