"""The overview by XML-RPC from Python, the way that XenAPI.py does it.

    python3 overview.py URL PASSWORD
"""
import ssl
import sys
import xmlrpc.client


class Failure(Exception):
    pass


class _Method:
    def __init__(self, send, name):
        self._send, self._name = send, name

    def __getattr__(self, name):
        return _Method(self._send, self._name + "." + name)

    def __call__(self, *args):
        return self._send(self._name, args)


class Session:
    """XenAPI.Session in a few lines: session.xenapi.VM.get_all()."""

    def __init__(self, url):
        context = ssl._create_unverified_context()
        self._server = xmlrpc.client.ServerProxy(url, context=context, allow_none=True)
        self._session = None
        self.xenapi = self

    def __getattr__(self, name):
        return _Method(self._call, name)

    def login_with_password(self, *args):
        self._session = self._unwrap(self._server.session.login_with_password(*args))

    def _call(self, name, args):
        return self._unwrap(getattr(self._server, name)(self._session, *args))

    @staticmethod
    def _unwrap(answer):
        if answer["Status"] != "Success":
            raise Failure(answer["ErrorDescription"])
        return answer["Value"]


def wait(session, task):
    """Waits for a task by events, as scripts do."""
    wait_for_events, token = getattr(session.xenapi.event, "from"), ""
    while session.xenapi.task.get_status(task) == "pending":
        token = wait_for_events(["task/" + task], token, 10.0)["token"]
    if session.xenapi.task.get_status(task) != "success":
        raise Failure(session.xenapi.task.get_error_info(task))
    result = session.xenapi.task.get_result(task)
    session.xenapi.task.destroy(task)
    return result


def main(url, password):
    session = Session(url)
    session.xenapi.login_with_password("root", password, "2.23", "overview.py")
    api = session.xenapi
    records = api.VM.get_all_records()
    template = next(r for r, v in records.items() if v["name_label"] == "Debian Bookworm 12" and v["is_a_template"])
    assert isinstance(records[template]["memory_static_max"], str), "ints are strings in XML-RPC"

    pool = api.pool.get_all()[0]
    sr = api.pool.get_default_SR(pool)
    vm = api.VM.clone(template, "made by python")
    config = api.VM.get_other_config(vm)
    config["disks"] = config["disks"].replace('sr=""', 'sr="%s"' % api.SR.get_uuid(sr))
    api.VM.set_other_config(vm, config)
    api.VM.provision(vm)
    api.VM.set_memory(vm, str(1 << 30))
    network = api.network.get_all()[0]
    vif = api.VIF.create({"device": "0", "network": network, "VM": vm, "MAC": "", "MTU": "1500",
                          "other_config": {}, "qos_algorithm_type": "", "qos_algorithm_params": {}})

    wait(session, api.Async.VM.start(vm, False, False))
    assert api.VM.get_power_state(vm) == "Running"
    assert api.VIF.get_currently_attached(vif)

    vdi = api.VDI.create({"name_label": "data", "name_description": "", "SR": sr, "virtual_size": str(1 << 30),
                          "type": "user", "sharable": False, "read_only": False, "other_config": {}})
    vbd = api.VBD.create({"VM": vm, "VDI": vdi, "userdevice": "autodetect", "bootable": False, "mode": "RW", "type": "Disk",
                          "empty": False, "other_config": {}, "qos_algorithm_type": "", "qos_algorithm_params": {}})
    api.VBD.plug(vbd)
    assert api.VBD.get_currently_attached(vbd) and api.VBD.get_device(vbd).startswith("xvd")
    api.VBD.unplug(vbd)
    api.VBD.destroy(vbd)
    api.VDI.destroy(vdi)

    api.VIF.unplug(vif)
    assert not api.VIF.get_currently_attached(vif)
    api.VIF.plug(vif)

    api.VM.pause(vm)
    api.VM.unpause(vm)
    api.VM.suspend(vm)
    assert api.VM.get_power_state(vm) == "Suspended"
    api.VM.resume(vm, False, False)
    api.VM.hard_reboot(vm)
    api.VM.clean_shutdown(vm)
    api.VM.start(vm, True, False)
    assert api.VM.get_power_state(vm) == "Paused"
    api.VM.hard_shutdown(vm)
    assert api.VM.get_power_state(vm) == "Halted"

    try:
        api.VM.start("OpaqueRef:nothing", False, False)
    except Failure as e:
        assert e.args[0] == ["HANDLE_INVALID", "VM", "OpaqueRef:nothing"], e
    else:
        raise AssertionError("a VM that is not there was started")

    disks = [api.VBD.get_VDI(b) for b in api.VM.get_VBDs(vm)]
    api.VM.destroy(vm)
    for disk in disks:
        api.VDI.destroy(disk)
    api.session.logout()
    print("ok python")


if __name__ == "__main__":
    main(*sys.argv[1:])
