// Package datamodel holds the XenAPI as data: classes, fields, messages,
// enums, relations, errors, roles and HTTP actions.
//
// The facts live in schema/, a file a class, and are read once. Its one
// invariant: what this package says is all that the API promises; everything
// else (records, dispatch, tables, documents) is made from it. Start reading
// at schema/classes/VM.json, then Class.
package datamodel

import "strings"

// Lifecycle says how far a class, field or message has come.
type Lifecycle string

// The lifecycles of the datamodel. Deprecated and Prototype ones work.
const (
	Published  Lifecycle = "published"
	Prototype  Lifecycle = "prototype"
	Deprecated Lifecycle = "deprecated"
	Removed    Lifecycle = "removed"
)

// Qualifier says who may write a field.
type Qualifier string

const (
	// RW fields are in the constructor and have setters.
	RW Qualifier = "RW"
	// Constructor fields are set when the object is made, never after.
	Constructor Qualifier = "RO/constructor"
	// Runtime fields are written by the server alone.
	Runtime Qualifier = "RO/runtime"
)

// Kind is the shape of a message; every kind but Explicit follows from the
// class and its fields, and is served by generic code.
type Kind string

// The kinds of messages.
const (
	Explicit           Kind = "explicit"
	FieldGet           Kind = "field_get"
	FieldSet           Kind = "field_set"
	FieldAdd           Kind = "field_add"
	FieldRemove        Kind = "field_remove"
	Create             Kind = "create"
	Destroy            Kind = "destroy"
	GetByUUID          Kind = "get_by_uuid"
	GetByNameLabel     Kind = "get_by_name_label"
	GetRecord          Kind = "get_record"
	GetAll             Kind = "get_all"
	GetAllWhere        Kind = "get_all_where"
	GetAllRecordsWhere Kind = "get_all_records_where"
	GetAllRecords      Kind = "get_all_records"
)

// Class is one class of the API.
type Class struct {
	ID           int // position in Model.Classes
	Name         string
	Doc          string
	Lifecycle    Lifecycle
	Transitions  string
	InDatabase   bool `json:"in_database"`
	Persist      bool
	GenEvents    bool   `json:"gen_events"`
	CtorDtor     bool   `json:"ctor_dtor"`
	HasUUID      bool   `json:"has_uuid"`
	HasName      bool   `json:"has_name"`
	GetAll       bool   `json:"get_all"`
	CtorDtorRole string `json:"ctor_dtor_role"`
	ImplicitRole string `json:"implicit_role"`
	ForceCustom  string `json:"force_custom"`
	LogDestroy   bool   `json:"log_destroy"`
	// StoredFlag keeps the objects of a class in the graph although its
	// messages are all explicit.
	StoredFlag bool `json:"stored"`
	Fields     []*Field
	Messages   []*Message

	byName map[string]*Field
}

// Field is one field of a class; Index is its place in Class.Fields and the
// argument of Record.Ptr.
type Field struct {
	Index            int
	Class            *Class
	Name             string // on the wire: name_label
	Path             string // namespaced: name/label, or empty
	Doc              string
	TypeText         string `json:"type"`
	Type             *Type  `json:"-"`
	Qualifier        Qualifier
	Lifecycle        Lifecycle
	Default          any   // as JSON has it; see HasDefault
	HasDefault       bool  `json:"-"`
	PersistFlag      *bool `json:"persist"`
	InternalOnly     bool  `json:"internal_only"`
	IgnoreForeignKey bool  `json:"ignore_foreign_key"`
	Effect           bool
	GetRole          string            `json:"get_role"`
	SetRole          string            `json:"set_role"`
	MapKeysRoles     map[string]string `json:"map_keys_roles"`
	Transitions      string

	// Rel is the relation that this field is an end of, or nil.
	Rel *Relation `json:"-"`
	// Derived marks the many side of a one-to-many relation: never stored,
	// always computed from the other end.
	Derived bool `json:"-"`
}

// Stored reports whether objects of the class go into the log and SQLite.
func (c *Class) Stored() bool { return c.Persist && (c.InDatabase || c.StoredFlag) }

// Column is the field's name in the database: the namespace joined by "__".
func (f *Field) Column() string {
	if f.Path == "" {
		return f.Name
	}
	return strings.ReplaceAll(f.Path, "/", "__")
}

// Persistent reports whether the field's value goes into the log and SQLite.
// Whole classes can be ephemeral, single fields too, and derived ones are.
func (f *Field) Persistent() bool {
	return f.Class.Stored() && !f.Derived && (f.PersistFlag == nil || *f.PersistFlag)
}

// Param is one parameter of a message.
type Param struct {
	Name       string
	Doc        string
	TypeText   string `json:"type"`
	Type       *Type  `json:"-"`
	Default    any
	HasDefault bool `json:"-"`
	Since      string
}

// Message is one call of the API, without its session parameter.
type Message struct {
	Class               *Class
	Name                string
	Doc                 string
	Kind                Kind
	Field               *Field // of the field kinds
	Params              []Param
	ResultText          string `json:"result"`
	Result              *Type  `json:"-"`
	Errors              []string
	Role                string
	MapKeysRoles        map[string]string `json:"map_keys_roles"`
	Lifecycle           Lifecycle
	Async               bool
	Hidden              bool
	Effect              bool
	PoolInternal        bool `json:"pool_internal"`
	SlaveLocal          bool `json:"slave_local"`
	Emergency           bool
	Secret              bool
	SessionFlag         *bool `json:"session"`
	CustomMarshaller    bool  `json:"custom_marshaller"`
	NoEffect            bool  `json:"no_effect"`
	Forward             string
	NoCurrentOperations bool `json:"no_current_operations"`
	Transitions         string
}

// WireName is the name that clients call: Class.message.
func (m *Message) WireName() string { return m.Class.Name + "." + m.Name }

// Permission is the RBAC permission's name: the wire name in lower case.
func (m *Message) Permission() string { return strings.ToLower(m.WireName()) }

// Session reports whether the call takes a session as its first parameter;
// only the logins don't.
func (m *Message) Session() bool { return m.SessionFlag == nil || *m.SessionFlag }

// Required counts the parameters that have no default.
func (m *Message) Required() int {
	n := 0
	for i := range m.Params {
		if !m.Params[i].HasDefault {
			n++
		}
	}
	return n
}

// Relation joins two fields: From.Field is the stored end. When it is one ref,
// the other end is derived; when both are sets, both are stored and kept alike.
type Relation struct {
	From, To   *Field
	ManyToMany bool
}

// Enum is a closed set of texts.
type Enum struct {
	Name    string
	Doc     string
	Members []string
}

// ErrorCode is one failure that the API can answer with; Params is nil for a
// code whose parameters are not documented.
type ErrorCode struct {
	Code   string
	Params []string
}

// Alert is the name of a message object, with its priority: 1 is the worst.
type Alert struct {
	Name     string
	Priority int
}

// Role is one RBAC role; rank 0 is the strongest.
type Role struct {
	Name     string
	Rank     int
	Internal bool
	UUID     string
}

// HTTPAction is one HTTP handler that isn't an RPC endpoint.
type HTTPAction struct {
	Name   string
	Method string
	URI    string
	Query  []any
	Role   string
	RBAC   bool
	SDK    bool
}

// FieldByName finds a field by its wire name or its database column.
func (c *Class) FieldByName(name string) *Field { return c.byName[name] }

// CanCreate reports whether the field is a member of the constructor record.
func (f *Field) CanCreate() bool {
	return !f.InternalOnly && (f.Qualifier == RW || f.Qualifier == Constructor)
}

// Template is one of the default templates.
type Template struct {
	NameLabel        string `json:"name_label"`
	ReferenceLabel   string `json:"reference_label"`
	UUID             string
	MemoryStaticMin  int64             `json:"memory_static_min"`
	MemoryStaticMax  int64             `json:"memory_static_max"`
	MemoryDynamicMin int64             `json:"memory_dynamic_min"`
	MemoryDynamicMax int64             `json:"memory_dynamic_max"`
	VCPUsMax         int64             `json:"VCPUs_max"`
	VCPUsAtStartup   int64             `json:"VCPUs_at_startup"`
	DomainType       string            `json:"domain_type"`
	HVMBootPolicy    string            `json:"HVM_boot_policy"`
	HVMBootParams    map[string]string `json:"HVM_boot_params"`
	PVBootloader     string            `json:"PV_bootloader"`
	PVArgs           string            `json:"PV_args"`
	Platform         map[string]string
	OtherConfig      map[string]string `json:"other_config"`
	Disks            []TemplateDisk
	// Restrictions are the guest's limits: numbers, booleans or texts.
	Restrictions map[string]any
}

// TemplateDisk is a disk that VM.provision makes; Size is in bytes.
type TemplateDisk struct {
	Size     int64
	Bootable bool
	Type     string
}
