// Reads a model with the code of Netron that its page runs: `node read_with_netron.mjs <Netron's folder> <model> …`.
// Prints one line of JSON a model: format, metadata, op types, nodes with metadata.
import * as fs from 'node:fs';
import * as path from 'node:path';
import { pathToFileURL } from 'node:url';

const [folder, ...models] = process.argv.slice(2);
const load = (name) => import(pathToFileURL(path.join(folder, name)));
const view = await load('view.js');
const base = await load('base.js');

const host = {
    window: globalThis,
    environment: () => false,
    event: () => {},
    exception: (error) => { throw error; },
    require: (id) => load(`${id.replace('./', '')}.js`)
};

const context = (file) => ({
    identifier: path.basename(file),
    stream: new base.BinaryStream(new Uint8Array(fs.readFileSync(file))),
    asset: async (name) => fs.readFileSync(path.join(folder, name), 'utf-8'),
    fetch: async (name) => new base.BinaryStream(new Uint8Array(fs.readFileSync(path.join(path.dirname(file), name)))),
    require: host.require,
    error: (error) => { throw error; }
});

const service = new view.ModelFactoryService(host);
for (const file of models) {
    const model = await service.open(context(file));
    const [graph] = model.modules;
    console.log(JSON.stringify({
        format: model.format,
        metadata: model.metadata.map((entry) => entry.name),
        ops: [...new Set(graph.nodes.map((node) => node.type.name))],
        nodes: graph.nodes.length,
        quantized: graph.nodes.flatMap((node) => [...node.inputs, ...node.outputs])
            .flatMap((argument) => argument.value)
            .filter((value) => value && value.quantization).length
    }));
}
