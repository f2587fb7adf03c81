"""What lvm2 2.03.16 printed on a real volume group."""

GROUP = """  {
      "report": [
          {
              "vg": [
                  {"vg_name":"vg0", "vg_uuid":"Nav2RB-qcdZ-2ejP-FXIT-90MV-I8F4-KuAfSL", "vg_size":"2143289344", \
"vg_free":"2139095040", "vg_extent_size":"4194304", "vg_lock_type":"", "vg_shared":"0", "vg_missing_pv_count":"0", \
"vg_exported":"0", "vg_permissions":"writeable", "pv_name":"/dev/vdb"}
              ]
          }
      ]
  }
"""

VOLUMES = """  {
      "report": [
          {
              "lv": [
                  {"lv_name":"dm-1-0", "lv_uuid":"107j2F-IH2F-ONuX-U08X-wXLE-vvBG-npGxpe", "lv_size":"4194304", \
"lv_tags":"diskmigration.dev,diskmigration.dev/migration=8f2d6f0e-7d0b-4a55-9c39-2f9e1d8b7a11", \
"lv_attr":"-wi-a-----", "lv_active_locally":"1", "lv_device_open":"0", \
"lv_suspended":"0", "origin":""}
                  ,
                  {"lv_name":"root", "lv_uuid":"207j2F-IH2F-ONuX-U08X-wXLE-vvBG-npGxpe", "lv_size":"8388608", \
"lv_tags":"", "lv_attr":"-wi-ao----", "lv_active_locally":"1", "lv_device_open":"1", \
"lv_suspended":"0", "origin":""}
              ]
          }
      ]
  }
"""

NO_VOLUMES = """  {
      "report": [
          {
              "lv": [
              ]
          }
      ]
  }
"""
