// Classify images with transformers.js: node classify.cjs PACKAGES HUB ORG/NAME DTYPE IMAGE …
// PACKAGES is a folder with node_modules/@huggingface/transformers. Prints a list of classes for each image.
const { createRequire } = require('node:module');
const [packages, remoteHost, repo, dtype, ...images] = process.argv.slice(2);
const { AutoModelForImageClassification, ImageClassificationPipeline, ImageProcessor, env } =
  createRequire(`${packages}/`)('@huggingface/transformers');

(async () => {
  Object.assign(env, { remoteHost, allowLocalModels: false, cacheDir: `${packages}/cache` });
  const read = async (name) => (await fetch(`${remoteHost}/${repo}/resolve/main/onnx/${name}`)).json();
  const config = await read('config.json');
  const model = await AutoModelForImageClassification.from_pretrained(repo, { config, dtype });
  const processor = new ImageProcessor(await read('preprocessor_config.json'));
  const classify = new ImageClassificationPipeline({ task: 'image-classification', model, processor });
  console.log(JSON.stringify(await classify(images, { top_k: 10 })));
})();
