// The Codex SDK against a live node: upload, list, download, fetch, delete.
const assert = require("node:assert");
const { Codex } = require("@codex-storage/sdk-js");
const { NodeUploadStrategy } = require("@codex-storage/sdk-js/node");

async function main(url) {
  const codex = new Codex(url);
  const sound = (step, result) => {
    assert.equal(result.error, false, `${step}: ${JSON.stringify(result.data)}`);
    console.log(`codex-sdk: ${step}`);
    return result.data;
  };
  const text = "hello codex ".repeat(200000);

  const metadata = { filename: "hello world.txt", mimetype: "text/plain" };
  const strategy = new NodeUploadStrategy(text, metadata);
  const cid = sound("upload", await codex.data.upload(strategy).result);

  const listed = sound("list", await codex.data.cids()).content.find((item) => item.cid === cid);
  assert.equal(listed.manifest.filename, metadata.filename);
  assert.equal(listed.manifest.mimetype, metadata.mimetype);
  assert.equal(listed.manifest.datasetSize, text.length);

  const local = sound("local download", await codex.data.localDownload(cid));
  assert.equal(local.headers.get("content-type"), metadata.mimetype);
  assert.match(local.headers.get("content-disposition"), /filename="hello world.txt"/);
  assert.equal(await local.text(), text);
  const stream = sound("network stream", await codex.data.networkDownloadStream(cid));
  assert.equal(await stream.text(), text);
  const manifest = sound("manifest", await codex.data.fetchManifest(cid));
  assert.equal(manifest.manifest.datasetSize, text.length);
  assert.equal(sound("network download", await codex.data.networkDownload(cid)).cid, cid);

  const space = sound("space", await codex.data.space());
  assert.ok(space.totalBlocks > 0 && space.quotaMaxBytes > space.quotaUsedBytes);
  const info = sound("debug info", await codex.debug.info());
  assert.equal(sound("peer id as JSON", await codex.node.peerId("json")).id, info.id);
  assert.equal(sound("peer id as text", await codex.node.peerId("text")), info.id);
  assert.ok(sound("record", await codex.node.spr("json")).spr.startsWith(info.id));
  sound("log level", await codex.debug.setLogLevel("INFO"));

  sound("delete", await codex.data.delete(cid));
  assert.equal((await codex.data.localDownload(cid)).data.code, 404);
  assert.equal(sound("list", await codex.data.cids()).content.length, 0);
  assert.equal((await codex.data.localDownload("nonsense")).data.code, 400);
}

main(process.argv[2]).catch((failed) => {
  console.error(failed);
  process.exit(1);
});
