// Xen Orchestra's own client, unmodified, through the whole overview:
//   node overview.mjs URL PASSWORD auto|json-rpc|xml-rpc
// It keeps its copy of all objects by events, and is right when that copy
// agrees with what it did.
import assert from 'node:assert/strict'
import { createClient } from 'xen-api'

const [url, password, transport = 'auto'] = process.argv.slice(2)
const xapi = createClient({ url, auth: { user: 'root', password }, allowUnauthorized: true, transport })

// until waits for a condition on the client's own copy of the objects.
const until = async (what, test) => {
  const deadline = Date.now() + 20e3
  for (;;) {
    const got = test()
    if (got) return got
    if (Date.now() > deadline) throw new Error('never seen: ' + what)
    await new Promise(resolve => xapi.objects.once('finish', resolve).once('update', resolve) && setTimeout(resolve, 100))
  }
}
const object = ref => xapi.getObjectByRef(ref, undefined)
const state = (ref, want) => until(`${ref} ${want}`, () => object(ref)?.power_state === want)

await xapi.connect()
await xapi.objectsFetched
const pool = xapi.pool
assert.ok(pool.$default_SR, 'the pool has a default SR')
const template = await until('the template', () =>
  Object.values(xapi.objects.all).find(o => o.$type === 'VM' && o.name_label === 'Debian Bookworm 12' && o.is_a_template))

const vm = await xapi.callAsync('VM.clone', template.$ref, 'made by xen-api').then(r => r)
const disks = (await xapi.getField('VM', vm, 'other_config')).disks.replaceAll('sr=""', `sr="${pool.$default_SR.uuid}"`)
await xapi.call('VM.remove_from_other_config', vm, 'disks')
await xapi.call('VM.add_to_other_config', vm, 'disks', disks)
await xapi.callAsync('VM.provision', vm)
await xapi.call('VM.set_memory', vm, 1024 * 1024 * 1024)
const network = Object.values(xapi.objects.all).find(o => o.$type === 'network')
await xapi.call('VIF.create', {
  device: '0', network: network.$ref, VM: vm, MAC: '', MTU: 1500, other_config: {}, qos_algorithm_type: '', qos_algorithm_params: {},
})

await xapi.callAsync('VM.start', vm, false, false)
await state(vm, 'Running')
await until('attached disk', () => object(vm).$VBDs.length === 1 && object(vm).$VBDs[0].currently_attached)
await xapi.callAsync('VM.pause', vm)
await state(vm, 'Paused')
await xapi.callAsync('VM.unpause', vm)
await state(vm, 'Running')
await xapi.callAsync('VM.suspend', vm)
await state(vm, 'Suspended')
await xapi.callAsync('VM.resume', vm, false, false)
await state(vm, 'Running')
await xapi.callAsync('VM.clean_reboot', vm)
await state(vm, 'Running')
await xapi.callAsync('VM.clean_shutdown', vm)
await state(vm, 'Halted')
await assert.rejects(xapi.callAsync('VM.unpause', vm), { code: 'VM_BAD_POWER_STATE' })

const disk = object(vm).$VBDs[0].VDI
await xapi.callAsync('VM.destroy', vm)
await xapi.callAsync('VDI.destroy', disk)
await until('the VM gone', () => object(vm) === undefined)
await xapi.disconnect()
console.log('ok', transport)
