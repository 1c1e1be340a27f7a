// Classify images with transformers.js: node classify.cjs PACKAGES HUB ORG/NAME DTYPE IMAGE …
// PACKAGES is a folder with node_modules/@huggingface/transformers. Prints a list of classes for each image.
const { createRequire } = require('node:module');
const [packages, remoteHost, repo, dtype, ...images] = process.argv.slice(2);
const { env, pipeline } = createRequire(`${packages}/`)('@huggingface/transformers');

(async () => {
  Object.assign(env, { remoteHost, allowLocalModels: false, cacheDir: `${packages}/cache` });
  const config = await (await fetch(`${remoteHost}/${repo}/resolve/main/onnx/config.json`)).json();
  const classify = await pipeline('image-classification', repo, { config, dtype });
  console.log(JSON.stringify(await classify(images, { top_k: 10 })));
})();
