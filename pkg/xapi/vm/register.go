package vm

import (
	"xapid/pkg/datamodel"
	"xapid/pkg/xapi"
	"xapid/pkg/xenapi/service"
)

// Register puts class VM into the tables that calls are dispatched by.
func (s *VMs) Register(h xapi.Hooks, services *service.Services) {
	services.VM = s
	h.Create["VM.create"] = s.Create
	h.Destroy["VM.destroy"] = s.Destroy
	h.Write["VM.set_is_a_template"] = s.SetIsATemplate
	h.Write["VM.set_xenstore_data"] = s.WriteXenstoreData(datamodel.FieldSet)
	h.Write["VM.add_to_xenstore_data"] = s.WriteXenstoreData(datamodel.FieldAdd)
	h.Write["VM.remove_from_xenstore_data"] = s.WriteXenstoreData(datamodel.FieldRemove)
}
