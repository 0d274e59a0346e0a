// Lists the campaigns an API key may see, page by page, as one line of JSON each.
//
//   CHIMERA_ADDRESS=127.0.0.1:8400 CHIMERA_API_KEY=chm_... node list_campaigns.js
//
// CHIMERA_CA_FILE: PEM of the server's certificate authority; without it the connection is plain.
// A refusal is printed with its gRPC code and ends with exit code 1.
"use strict";

const fs = require("fs");
const path = require("path");
const grpc = require("@grpc/grpc-js");
const protoLoader = require("@grpc/proto-loader");

const root = path.resolve(__dirname, "..", "..");
// .protodeps holds buf/validate/validate.proto; `make generate` prints it.
const includeDirs = [path.join(root, "proto"), path.join(root, ".protodeps")];

function openClient(address, apiKey) {
  const definition = protoLoader.loadSync("chimera/v1/campaigns.proto", {
    includeDirs,
    keepCase: true,
    enums: String,
    longs: String,
    defaults: true,
  });
  const api = grpc.loadPackageDefinition(definition).chimera.v1;
  const caFile = process.env.CHIMERA_CA_FILE;
  const credentials = caFile
    ? grpc.credentials.createSsl(fs.readFileSync(caFile))
    : grpc.credentials.createInsecure();
  const metadata = new grpc.Metadata();
  metadata.set("authorization", `Bearer ${apiKey}`);
  return { client: new api.CampaignService(address, credentials), metadata };
}

function listPage(client, metadata, pageToken) {
  const request = { page_size: 100, page_token: pageToken };
  const deadline = Date.now() + 10_000;
  return new Promise((resolve, reject) => {
    client.ListCampaigns(request, metadata, { deadline }, (error, answer) =>
      error ? reject(error) : resolve(answer)
    );
  });
}

async function main() {
  const { CHIMERA_ADDRESS: address = "127.0.0.1:8400", CHIMERA_API_KEY: apiKey } = process.env;
  if (!apiKey) throw new Error("set CHIMERA_API_KEY");
  const { client, metadata } = openClient(address, apiKey);
  try {
    let pageToken = "";
    do {
      const page = await listPage(client, metadata, pageToken);
      for (const { id, name, state } of page.campaigns) {
        console.log(JSON.stringify({ id, name, state }));
      }
      pageToken = page.next_page_token;
    } while (pageToken);
  } finally {
    client.close();
  }
}

main().catch((error) => {
  const code = grpc.status[error.code] ? `${grpc.status[error.code]}: ` : "";
  console.error(code + (error.details || error.message));
  process.exitCode = 1;
});
