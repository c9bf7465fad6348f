// Fetches http://NAME/ and prints the answer and the peer.
const http = require('http');

http.get({ host: process.argv[2], port: 80, path: '/', agent: false }, (answer) => {
  const peer = answer.socket.remoteAddress;
  let text = '';
  answer.on('data', (part) => { text += part; });
  answer.on('end', () => console.log(`${text} peer ${peer}`));
});
